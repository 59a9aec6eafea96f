//! Stop strings in a stream of text, wherever tokens end: text that may be the beginning of one is held back. Leaves
//! stop tokens to the engine.

/// Looks for the stop strings of one candidate.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopResult {
    /// Text that is certain now.
    pub text: String,
    /// A stop string was found; what follows it is dropped.
    pub stopped: bool,
}

impl StopMatcher {
    /// Takes the next piece. The earliest stop string wins, and of those at one place the first in the list; with
    /// `include_stop` it belongs to the text. While not `armed` nothing stops and nothing is held back.
    pub fn push(&mut self, piece: String, stops: &[String], include_stop: bool, armed: bool) -> StopResult {
        let mut text = std::mem::take(&mut self.held);
        // Mostly nothing is held back, and the piece goes on as it came.
        if text.is_empty() {
            text = piece;
        } else {
            text.push_str(&piece);
        }
        if stops.is_empty() || !armed {
            return StopResult { text, stopped: false };
        }
        self.held = text;
        let found = stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start, stop)));
        // `min_by_key` keeps the first of equals.
        if let Some((start, stop)) = found.min_by_key(|(start, _)| *start) {
            let end = if include_stop { start + stop.len() } else { start };
            self.held.truncate(end);
            return StopResult { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep_from = self.possible_start(stops);
        let kept = self.held.split_off(keep_from);
        StopResult { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }

    /// Gives out what was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest end of the text begins that a stop string begins with.
    fn possible_start(&self, stops: &[String]) -> usize {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = (self.held.len() + 1).saturating_sub(longest);
        let mut starts = (earliest..self.held.len()).filter(|&start| self.held.is_char_boundary(start));
        let is_possible = |start: &usize| stops.iter().any(|stop| stop.starts_with(&self.held[*start..]));
        starts.find(is_possible).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(ToString::to_string).collect()
    }

    fn run(pieces: &[&str], stops: &[&str], include_stop: bool) -> (String, bool) {
        let (mut matcher, stops, mut text) = (StopMatcher::default(), strings(stops), String::new());
        for piece in pieces {
            let result = matcher.push((*piece).to_owned(), &stops, include_stop, true);
            text.push_str(&result.text);
            if result.stopped {
                return (text, true);
            }
        }
        (text + &matcher.finish(), false)
    }

    #[test]
    fn finds_a_stop_string_across_pieces() {
        assert_eq!(run(&["one", " ST", "OP two"], &["STOP"], false), ("one ".into(), true));
        assert_eq!(run(&["one", " ST", "OP two"], &["STOP"], true), ("one STOP".into(), true));
        assert_eq!(run(&["one ST", "ART"], &["STOP"], false), ("one START".into(), false));
        assert_eq!(run(&["ab", "ab", "c"], &["ababd", "abc"], false), ("ab".into(), true));
    }

    #[test]
    fn shows_text_as_soon_as_it_can_be_no_stop_string() {
        let (mut matcher, stops) = (StopMatcher::default(), strings(&["</s>"]));
        let mut push = |piece: &str| matcher.push(piece.to_owned(), &stops, false, true).text;
        assert_eq!(push("a<"), "a");
        assert_eq!(push("b<"), "<b");
        assert_eq!(push("/"), "");
        assert_eq!(push("x"), "</x");
    }

    #[test]
    fn the_earliest_wins_and_an_unarmed_matcher_lets_all_through() {
        assert_eq!(run(&["xyz"], &["z", "y"], false), ("x".into(), true));
        assert_eq!(run(&["xyz"], &["yz", "y"], true), ("xyz".into(), true));
        let mut matcher = StopMatcher::default();
        assert_eq!(matcher.push("stop".to_owned(), &strings(&["stop"]), false, false).text, "stop");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[ab€]{0,16}",
            stops in prop::collection::vec("[ab€]{1,4}", 1..4),
            cuts in prop::collection::vec(0usize..17, 0..6),
            include_stop: bool,
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|cut| chars[cut[0]..cut[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            // One piece for each character finds the match that ends first, so compare on whether and where text ends
            // only when all matches of one stop string are the same: one stop string at a time.
            for stop in stops {
                let expected = match text.find(stop) {
                    Some(start) if include_stop => (text[..start + stop.len()].to_owned(), true),
                    Some(start) => (text[..start].to_owned(), true),
                    None => (text.clone(), false),
                };
                prop_assert_eq!(run(&pieces, &[stop], include_stop), expected);
            }
        }
    }
}
