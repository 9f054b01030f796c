//! Names out of what an image says: guesses, each of which the file asks to be checked.

use crate::{
    catalog::{ImageReference, is_environment_name, is_reserved},
    docker::ImageDescription,
};

/// Variables that say nothing of how a server is used.
const DULL: [&str; 3] = ["LANG", "LC_ALL", "TZ"];
const PASSWORDS: [&str; 5] = ["PASSWORD", "PASSWD", "PASS", "SECRET", "TOKEN"];
const USERS: [&str; 3] = ["USER", "USERNAME", "LOGIN"];
const DATABASES: [&str; 3] = ["DB", "DBNAME", "DATABASE"];
/// What names where something is, is not it.
const PLACES: [&str; 4] = ["FILE", "PATH", "DIR", "URL"];

/// The product: the last part of the image's name.
pub(super) fn product(image: &ImageReference) -> &str {
    image.name().rsplit('/').next().unwrap_or_default()
}

/// `redis7` for `redis:7.4-alpine`, `web` for `registry:5000/team/web:latest`.
pub(super) fn default_name(image: &ImageReference) -> String {
    let tag = image.tag().unwrap_or_default();
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    format!("{}{}", product(image), &version[..digits])
}

/// What the names of an image's variables suggest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variables<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) dbname: Option<&'a str>,
    /// Further passwords, which are nobody's to know.
    pub(super) secrets: Vec<&'a str>,
    pub(super) others: Vec<&'a str>,
}

impl<'a> Variables<'a> {
    pub(super) fn of(image: &'a ImageDescription) -> Self {
        let mut found = Self::default();
        let entries = image.environment.iter().filter_map(|entry| entry.split_once('='));
        let names = entries.map(|(name, _)| name);
        for name in names.filter(|name| is_environment_name(name) && !is_reserved(name)) {
            let upper = name.to_uppercase();
            let says = |words: &[&str]| upper.split('_').any(|word| words.contains(&word));
            let is = |words: &[&str]| says(words) && !says(&PLACES);
            if is(&PASSWORDS) {
                match found.password {
                    None => found.password = Some(name),
                    Some(_) => found.secrets.push(name),
                }
            } else if is(&USERS) && found.username.is_none() {
                found.username = Some(name);
            } else if is(&DATABASES) && found.dbname.is_none() {
                found.dbname = Some(name);
            } else if !DULL.contains(&name) {
                found.others.push(name);
            }
        }
        found
    }

    /// Key of `credentials` and variable, of those that were found.
    pub(super) fn credentials(&self) -> Vec<(&'static str, &'a str)> {
        let all =
            [("username", self.username), ("password", self.password), ("dbname", self.dbname)];
        all.into_iter().filter_map(|(key, variable)| Some((key, variable?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_product_with_its_major_version() {
        for (image, name) in [
            ("redis:7", "redis7"),
            ("mariadb:11.8", "mariadb11"),
            ("nats:2-alpine", "nats2"),
            ("quay.io/coreos/etcd:v3.5.21", "etcd3"),
            ("registry:5000/team/web", "web"),
            ("busybox:stable", "busybox"),
        ] {
            assert_eq!(default_name(&ImageReference::parse(image, None).unwrap()), name);
        }
    }

    #[test]
    fn variables_are_known_by_the_words_of_their_names() {
        let names = [
            "PATH",
            "LANG",
            "APP_PASSWORD",
            "APP_PASSWORD_FILE",
            "APP_USER",
            "ROOT_TOKEN",
            "APP_DB",
            "BYPASS",
            "MODE",
        ];
        let image = ImageDescription {
            environment: names.map(|name| format!("{name}=x")).to_vec(),
            ..ImageDescription::default()
        };
        let expected = Variables {
            username: Some("APP_USER"),
            password: Some("APP_PASSWORD"),
            dbname: Some("APP_DB"),
            secrets: vec!["ROOT_TOKEN"],
            others: vec!["APP_PASSWORD_FILE", "BYPASS", "MODE"],
        };
        assert_eq!(Variables::of(&image), expected);
    }
}
