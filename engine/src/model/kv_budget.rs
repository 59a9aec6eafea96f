//! How the policies of one process share the memory for keys and values. Leaves the blocks themselves to the executors.

use super::backend::Result;
use crate::EngineError;

/// What a policy needs of the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The policy's name.
    pub(super) name: String,
    /// Bytes of a block of tokens, over all layers.
    pub(super) block_bytes: usize,
    /// Bytes it was given by name; `None` is a share of what is left.
    pub(super) own: Option<usize>,
}

/// The bytes of each policy: those that were given some have them, and the others share the rest so that all of them hold
/// equally many tokens.
///
/// # Errors
/// [`EngineError::InvalidRequest`] with the figures, if `memory` is not enough for what was given or for a block of each.
pub(super) fn shares(memory: usize, claims: &[Claim]) -> Result<Vec<usize>> {
    let given: usize = claims.iter().filter_map(|claim| claim.own).sum();
    let Some(rest) = memory.checked_sub(given) else {
        let message = format!(
            "the KV memory is {memory} bytes, but the policies are given {given}: {}",
            list(claims.iter().filter_map(|claim| Some((&*claim.name, claim.own?))))
        );
        return Err(EngineError::invalid("kv_memory", message));
    };
    let sharing = || claims.iter().filter(|claim| claim.own.is_none());
    let block_of_each: usize = sharing().map(|claim| claim.block_bytes).sum();
    // Alone, it has what does not fill a block, too.
    let alone = sharing().count() == 1;
    let num_blocks = rest.checked_div(block_of_each).unwrap_or(0);
    if num_blocks == 0 && block_of_each > 0 {
        let message = format!(
            "{rest} bytes of KV memory are left, but a block of each policy that shares them takes {block_of_each}: {}",
            list(sharing().map(|claim| (&*claim.name, claim.block_bytes)))
        );
        return Err(EngineError::invalid("kv_memory", message));
    }
    let share = |claim: &Claim| match claim.own {
        Some(own) => own,
        None if alone => rest,
        None => num_blocks * claim.block_bytes,
    };
    Ok(claims.iter().map(share).collect())
}

fn list<'a>(sizes: impl Iterator<Item = (&'a str, usize)>) -> String {
    sizes.map(|(name, bytes)| format!("`{name}` {bytes}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, block_bytes: usize, own: Option<usize>) -> Claim {
        Claim { name: name.to_owned(), block_bytes, own }
    }

    #[test]
    fn a_policy_alone_has_all_of_it() {
        assert_eq!(shares(1003, &[claim("a", 10, None)]).unwrap(), [1003]);
        assert_eq!(shares(1003, &[claim("a", 10, Some(400))]).unwrap(), [400]);
        assert_eq!(shares(1003, &[claim("a", 10, Some(400)), claim("b", 10, None)]).unwrap(), [400, 603]);
    }

    #[test]
    fn those_that_share_hold_equally_many_tokens() {
        let claims = [claim("large", 30, None), claim("small", 10, None), claim("own", 7, Some(200))];
        let bytes = shares(1010, &claims).unwrap();
        assert_eq!(bytes, [600, 200, 200]);
        assert_eq!(bytes[0] / 30, bytes[1] / 10);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let refused = |memory, claims: &[Claim]| shares(memory, claims).unwrap_err().to_string();
        assert_eq!(
            refused(100, &[claim("a", 10, Some(60)), claim("b", 10, Some(70)), claim("c", 10, None)]),
            "the KV memory is 100 bytes, but the policies are given 130: `a` 60, `b` 70"
        );
        assert_eq!(
            refused(100, &[claim("a", 60, None), claim("b", 50, None)]),
            "100 bytes of KV memory are left, but a block of each policy that shares them takes 110: `a` 60, `b` 50"
        );
    }
}
