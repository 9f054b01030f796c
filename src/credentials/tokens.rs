//! `$HOST`, `$PORT` and `$PORT_<n>` in documents, as older docker brokers knew them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::binding::main_port;
use crate::catalog::{ContainerPort, Credentials, Protocol};

/// A token for a port that the container does not publish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the container publishes no port for ${0}")]
pub struct TokenError(pub(super) String);

/// What the tokens stand for.
#[derive(Debug)]
pub struct Tokens<'a> {
    host: &'a str,
    port: Option<u16>,
    ports: &'a BTreeMap<ContainerPort, u16>,
}

impl<'a> Tokens<'a> {
    /// Those of one container. `$PORT` is the port of `uri.port`, or the only one, or else that of
    /// the lowest TCP port: always the same one.
    #[must_use]
    pub fn new(
        shape: &Credentials,
        host: &'a str,
        ports: &'a BTreeMap<ContainerPort, u16>,
    ) -> Self {
        let lowest = || ports.iter().find(|(inner, _)| inner.protocol == Protocol::Tcp);
        let port = main_port(shape, ports).or_else(|| lowest().map(|(_, outer)| *outer));
        Self { host, port, ports }
    }

    /// A copy of `document` with the tokens in its strings replaced, at any depth. Keys stay as
    /// they are.
    ///
    /// # Errors
    /// [`TokenError`] when a port is named that is not published.
    pub fn fill(&self, document: &Value) -> Result<Value, TokenError> {
        Ok(match document {
            Value::String(text) => Value::String(self.fill_text(text)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.fill(item)).collect::<Result<_, _>>()?)
            }
            Value::Object(map) => Value::Object(
                map.iter()
                    .map(|(key, value)| Ok((key.clone(), self.fill(value)?)))
                    .collect::<Result<_, TokenError>>()?,
            ),
            other => other.clone(),
        })
    }

    /// A `$` and the whole word after it are read at once, so no token is ever found within a
    /// longer one; words that are no token stay as they are.
    fn fill_text(&self, text: &str) -> Result<String, TokenError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            filled.push_str(before);
            let end =
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (word, tail) = after.split_at(end);
            if let Some(value) = self.value(word)? {
                filled.push_str(&value);
            } else {
                filled.push('$');
                filled.push_str(word);
            }
            rest = tail;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// What a word after `$` stands for; `None` when it is no token.
    fn value(&self, word: &str) -> Result<Option<String>, TokenError> {
        let missing = || TokenError(word.to_owned());
        match word {
            "HOST" => return Ok(Some(self.host.to_owned())),
            "PORT" => return Ok(Some(self.port.ok_or_else(missing)?.to_string())),
            _ => {}
        }
        let number = word.strip_prefix("PORT_").and_then(|digits| digits.parse::<u16>().ok());
        let Some(number) = number else { return Ok(None) };
        let outer = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find_map(|protocol| self.ports.get(&ContainerPort { number, protocol }))
            .ok_or_else(missing)?;
        Ok(Some(outer.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::UriShape;

    fn ports(of: &[(&str, u16)]) -> BTreeMap<ContainerPort, u16> {
        of.iter().map(|(port, host)| (ContainerPort::parse(port).unwrap(), *host)).collect()
    }

    fn fill(text: &str, of: &[(&str, u16)]) -> Result<String, String> {
        let ports = ports(of);
        let tokens = Tokens::new(&Credentials::default(), "10.0.0.1", &ports);
        let filled = tokens.fill(&text.into()).map_err(|error| error.to_string())?;
        Ok(filled.as_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_never_found_within_a_longer_word() {
        let both = [("3306/tcp", 20_001), ("33060/tcp", 20_002)];
        for (text, filled) in [
            ("$PORT_33060 $PORT_3306", "20002 20001"),
            ("$PORT_3306$PORT_33060$HOST", "200012000210.0.0.1"),
            ("mysql://$HOST:$PORT_3306/a?x=$HOST", "mysql://10.0.0.1:20001/a?x=10.0.0.1"),
            ("$HOSTNAME $PORTS $PORT_ $PORT_3306_ $PORT_x ${HOST} $host", "="),
            ("a$ $$ 5$", "="),
            ("$$HOST", "$10.0.0.1"),
            ("ü$HOSTü", "ü10.0.0.1ü"),
        ] {
            let filled = if filled == "=" { text } else { filled };
            assert_eq!(fill(text, &both).as_deref(), Ok(filled));
        }
    }

    #[test]
    fn a_port_that_is_not_published_is_an_error_that_names_the_token_alone() {
        let error = fill("secret $PORT_9999", &[("3306/tcp", 20_001)]).unwrap_err();
        assert_eq!(error, "the container publishes no port for $PORT_9999");
        assert!(fill("$PORT", &[]).unwrap_err().contains("$PORT"));
        assert_eq!(fill("$HOST", &[]).as_deref(), Ok("10.0.0.1"));
    }

    #[test]
    fn port_is_the_one_of_the_uri_or_the_lowest_tcp_port() {
        let known = [("9/udp", 20_000), ("4222/tcp", 20_001), ("8222/tcp", 20_002)];
        assert_eq!(fill("$PORT $PORT_9", &known).as_deref(), Ok("20001 20000"));
        let uri = UriShape { prefix: None, port: ContainerPort::parse("8222").ok() };
        let shape = Credentials { uri: Some(uri), ..Credentials::default() };
        let known = ports(&known);
        let tokens = Tokens::new(&shape, "h", &known);
        assert_eq!(tokens.fill(&json!("$PORT")).unwrap(), json!("20002"));
    }

    #[test]
    fn tokens_are_replaced_at_any_depth_in_a_copy_and_other_values_stay() {
        let document = json!({
            "$HOST": "$HOST", "n": 1, "null": null, "yes": true,
            "list": ["$PORT", {"deep": ["$PORT_6379/tcp"]}],
        });
        let original = document.clone();
        for outer in [20_000, 20_001] {
            let known = ports(&[("6379/tcp", outer)]);
            let tokens = Tokens::new(&Credentials::default(), "h", &known);
            let port = outer.to_string();
            assert_eq!(
                tokens.fill(&document).unwrap(),
                json!({
                    "$HOST": "h", "n": 1, "null": null, "yes": true,
                    "list": [port, {"deep": [format!("{port}/tcp")]}],
                })
            );
        }
        assert_eq!(document, original);
    }
}
