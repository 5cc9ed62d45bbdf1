//! Patterns over names that firmware and drivers give.

/// Whether `text` matches `pattern`, in which `*` stands for any text. Upper and lower case are the same, since makers
/// write their own names in both.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// How much a pattern says: its characters other than `*`.
pub(crate) fn weight(pattern: &str) -> usize {
    pattern.chars().filter(|c| *c != '*').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, want) in [
            ("NUC*", "NUC8i7BEH", true),
            ("nuc*", "NUC", true),
            ("NUC*", "xNUC", false),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("nvidia,p3768-0000+p3767-000?", "nvidia,p3768-0000+p3767-0005", false),
            ("*p3767-0005*", "nvidia,p3768-0000+p3767-0005-super", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        assert_eq!(weight("NUC*"), 3);
    }
}
