//! `quality:`, the rules that votes must pass before anything is trained on them. The keys and their defaults are those
//! of the rules themselves; this file leaves their meaning there.

pub use rectify_feedback::quality::QualityConfig as QualitySection;

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn rules_are_read_checked_and_spelled_right() {
        let config =
            Config::from_yaml("quality: {dedup: {keep: 3, on: prompt_and_answer}, staleness: {window: 1}}");
        let quality = config.expect("valid").quality;
        assert_eq!((quality.dedup.keep, quality.staleness.window, quality.dedup.similarity), (3, 1, 0.9));
        for (yaml, part) in [
            ("quality: {dedup: {keap: 3}}", "did you mean `quality.dedup.keep`?"),
            ("quality: {dedup: {similarity: 2}}", "`quality.dedup.similarity` must be between 0 and 1"),
        ] {
            let error = Config::from_yaml(yaml).expect_err(yaml).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
