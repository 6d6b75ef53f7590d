//! Numbers as the tables and plots show them.

/// Formats a number with three digits or more.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_legible() {
        let cases = [(0.98765, "0.988"), (12.345, "12.3"), (123.4, "123"), (1234.6, "1235")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(5_260_000.4), "5,260,000");
    }
}
