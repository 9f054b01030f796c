//! Keeps known secrets out of what is logged.

/// Shorter strings would blank out innocent text.
const MIN_SECRET_CHARACTERS: usize = 6;

/// `text` with every occurrence of a secret replaced.
#[must_use]
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut clean = text.to_owned();
    for secret in secrets {
        if secret.len() >= MIN_SECRET_CHARACTERS && clean.contains(secret) {
            clean = clean.replace(secret, "[redacted]");
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let clean = super::redact("a s3cret42 and xs3cret42y", ["s3cret42", "x"]);
        assert_eq!(clean, "a [redacted] and x[redacted]y");
    }
}
