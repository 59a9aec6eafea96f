//! A batch in parts, for methods whose loss is a sum over examples: past some tokens a pass gets no faster, but its
//! activations go on growing. Leaves running the parts, which is gradient accumulation, to `trainer`.

/// Tokens of a pass that keep all cores at work. Tests cut their small batches too, and compare what comes of it with
/// references that do not.
const ENOUGH: usize = if cfg!(test) { 40 } else { 1280 };

/// Cuts `examples` into parts of about as many tokens each, in order.
pub(crate) fn parts(examples: &[usize], num_tokens: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let total: usize = examples.iter().map(|example| num_tokens(*example)).sum();
    let share = total.div_ceil(total.div_ceil(ENOUGH).max(1));
    let (mut parts, mut from, mut tokens) = (Vec::new(), 0, 0);
    for (index, example) in examples.iter().enumerate() {
        let length = num_tokens(*example);
        // Cut where the share is nearest, before or after this example.
        if index > from && (tokens + length).saturating_sub(share) > share.saturating_sub(tokens) {
            parts.push(&examples[from..index]);
            (from, tokens) = (index, 0);
        }
        tokens += length;
    }
    parts.push(&examples[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_hold_every_example_in_order() {
        let of = |lengths: &[usize]| {
            let examples: Vec<usize> = (0..lengths.len()).rev().collect();
            let parts = parts(&examples, |example| lengths[example]);
            assert_eq!(parts.concat(), examples);
            parts.iter().map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[ENOUGH / 2 - 1; 8]), [2, 2, 2, 2]);
        assert_eq!(of(&[1; ENOUGH]), [ENOUGH]);
        assert_eq!(of(&[4 * ENOUGH, 1, 1, 4 * ENOUGH]), [1, 2, 1]);
        assert_eq!(of(&[ENOUGH - 4, ENOUGH - 4, 1]), [2, 1]);
        assert_eq!(of(&[]), [0]);
    }
}
