//! Image references as Docker understands them: `[host[:port]/]name[:tag][@digest]`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A checked image reference.
///
/// Grammar: <https://pkg.go.dev/github.com/distribution/reference>.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageReference {
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// Parses `image` with an optional separate `tag`, as service files give them.
    /// Without tag and digest it is `latest`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the reference.
    pub fn parse(image: &str, tag: Option<&str>) -> Result<Self, String> {
        let image = image.trim();
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (image, None),
        };
        let after_slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, own_tag) = match rest[after_slash..].find(':') {
            Some(i) => (&rest[..after_slash + i], Some(&rest[after_slash + i + 1..])),
            None => (rest, None),
        };
        if let (Some(own), Some(given)) = (own_tag, tag)
            && own != given
        {
            return Err(format!("names the tag {own:?} while the key tag says {given:?}"));
        }
        let tag = own_tag.or(tag);
        check_name(name)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self {
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry's `host[:port]`, or `None` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let (first, _) = self.name.split_once('/')?;
        (first.contains(['.', ':']) || first == "localhost").then_some(first)
    }

    /// The name without tag and digest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag, if it has no digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref().filter(|_| self.digest.is_none())
    }

    /// What a pull has to ask for: the digest when there is one, else the tag.
    #[must_use]
    pub fn tag_or_digest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A tag beside a digest is only a remark; Docker 20.10 refuses both in some calls.
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "{}@{digest}", self.name),
            (None, Some(tag)) => write!(f, "{}:{tag}", self.name),
            (None, None) => f.write_str(&self.name),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("has no image name".to_owned());
    }
    if name.len() > 255 {
        return Err("is longer than 255 characters".to_owned());
    }
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), path)
        }
        _ => (None, name),
    };
    if let Some(host) = host {
        let (host, port) = host.split_once(':').map_or((host, None), |(h, p)| (h, Some(p)));
        let host_ok = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p > 0));
        if !host_ok || !port_ok {
            return Err("has a registry that is not host or host:port".to_owned());
        }
    }
    for part in path.split('/') {
        let ends_ok = part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric());
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("has upper-case letters in its name; Docker wants lower case".to_owned());
        }
        if !ends_ok || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(format!(
                "has the name part {part:?}; a part is made of a-z, 0-9 and inner . _ -"
            ));
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    let ok = (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if ok {
        Ok(())
    } else {
        Err(format!(
            "has the tag {tag:?}; a tag has 1 to 128 characters out of A-Z, a-z, 0-9, _ . - \
             and does not begin with . or -"
        ))
    }
}

fn check_digest(digest: &str) -> Result<(), String> {
    let ok = digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if ok { Ok(()) } else { Err("has a digest that is not sha256:<64 hex digits>".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood_as_docker_understands_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let with_digest = format!("redis@{digest}");
        for (image, tag, text, registry) in [
            ("redis", None, "redis:latest", None),
            ("redis", Some("9.6"), "redis:9.6", None),
            ("redis:7", None, "redis:7", None),
            ("redis:7", Some("7"), "redis:7", None),
            (" frodenas/redis ", Some("3.2"), "frodenas/redis:3.2", None),
            (
                "reg.example.com:5000/a/b",
                Some("1"),
                "reg.example.com:5000/a/b:1",
                Some("reg.example.com:5000"),
            ),
            ("localhost/x", None, "localhost/x:latest", Some("localhost")),
            (with_digest.as_str(), None, with_digest.as_str(), None),
        ] {
            let parsed = ImageReference::parse(image, tag).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.registry(), registry);
        }
    }

    #[test]
    fn bad_references_say_what_is_wrong() {
        for (image, tag, says) in [
            ("", None, "no image name"),
            ("Redis", None, "upper-case"),
            ("redis", Some("a b"), "tag"),
            ("redis:7", Some("8"), "while the key tag"),
            ("redis@sha256:12", None, "digest"),
            ("a//b", None, "name part"),
            ("host:0/x", None, "registry"),
        ] {
            let error = ImageReference::parse(image, tag).unwrap_err();
            assert!(error.contains(says), "{image:?}: {error}");
        }
    }
}
