//! Which major version data is of, and which one an image is of.

use serde::{Deserialize, Serialize};

/// How a plan tells the major versions of an instance's data and of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataVersion {
    /// Absolute path in the container, in one of the plan's volumes, of a file that says it.
    pub file: String,
    /// The version is what follows the last occurrence of this text; `None`: the first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Data without the file is of any version, and not of none that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_missing: bool,
    /// What says the image's.
    pub image: ImageVersion,
}

/// What says the version of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageVersion {
    /// A variable of the image's own environment.
    Environment(String),
    /// What this command prints, in a container of the image without network and volumes.
    Exec(Vec<String>),
    /// The operator.
    Value(String),
}

impl DataVersion {
    /// The major version in the text of the file; `None` when there is none in it.
    #[must_use]
    pub fn of_data(&self, text: &str) -> Option<u64> {
        match &self.after {
            Some(after) => major(text.rsplit_once(after.as_str())?.1),
            None => major(text),
        }
    }
}

/// The leading number of a version: the first number of the first line, without the epoch that
/// Debian's versions have (`1:11.8.2+maria` is 11), so `postgres (PostgreSQL) 17.2` is 17.
#[must_use]
pub fn major(text: &str) -> Option<u64> {
    let line = text.trim_start().lines().next()?;
    let line = match line.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()) => {
            rest
        }
        _ => line,
    };
    let digits = line.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_the_first_number_of_what_a_program_says() {
        for (text, version) in [
            ("17\n", Some(17)),
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("1:11.8.2+maria~ubu2404", Some(11)),
            ("11.8.2-MariaDB", Some(11)),
            ("Redis server v=7.0.15 sha=00000000:0", Some(7)),
            ("db version v8.0.4\nBuild Info: {", Some(8)),
            ("", None),
            ("latest", None),
            ("\n\n16", Some(16)),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(major(text), version, "{text:?}");
        }
    }

    #[test]
    fn a_marker_says_where_the_version_stands_and_the_last_one_counts() {
        let of_file = |after: &str| DataVersion {
            file: "/d/v".to_owned(),
            after: Some(after.to_owned()),
            may_be_missing: false,
            image: ImageVersion::Value("8".to_owned()),
        };
        let text = r#"{"file_format":"1","history":[{"version":"8.0.1"},{"version":"9.1.0"}]}"#;
        assert_eq!(of_file(r#""version":""#).of_data(text), Some(9));
        assert_eq!(of_file("absent").of_data(text), None);
    }
}
