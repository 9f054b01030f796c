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
    /// Those of an instance.
    #[must_use]
    pub fn new(
        shape: &Credentials,
        host: &'a str,
        ports: &'a BTreeMap<ContainerPort, u16>,
    ) -> Self {
        // Of several ports of which none is named, the lowest: always the same one.
        let lowest = || {
            let tcp = ports.iter().filter(|(inner, _)| inner.protocol == Protocol::Tcp);
            tcp.min_by_key(|(inner, _)| inner.number).map(|(_, outer)| *outer)
        };
        Self { host, port: main_port(shape, ports).or_else(lowest), ports }
    }

    /// Host that clients connect to.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// Host port that `$PORT` means.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host port of a container port; of its two protocols TCP comes first.
    #[must_use]
    pub fn port_of(&self, number: u16) -> Option<u16> {
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find_map(|protocol| self.ports.get(&ContainerPort { number, protocol }).copied())
    }

    /// A copy of `document` with the tokens in its strings replaced, at any depth. A token that
    /// stands for nothing stays.
    #[must_use]
    pub fn render(&self, document: &Value) -> Value {
        self.walk(document, &mut None)
    }

    /// The same for a document in which every token has to stand for something.
    ///
    /// # Errors
    /// [`TokenError`] names the first that does not.
    pub fn fill(&self, document: &Value) -> Result<Value, TokenError> {
        let mut missing = None;
        let filled = self.walk(document, &mut missing);
        missing.map_or(Ok(filled), |token| Err(TokenError(token)))
    }

    fn walk(&self, document: &Value, missing: &mut Option<String>) -> Value {
        match document {
            Value::String(text) => Value::String(self.render_text(text, missing)),
            Value::Array(items) => items.iter().map(|item| self.walk(item, missing)).collect(),
            Value::Object(map) => {
                let entries =
                    map.iter().map(|(key, value)| (key.clone(), self.walk(value, missing)));
                Value::Object(entries.collect())
            }
            other => other.clone(),
        }
    }

    fn render_text(&self, text: &str, missing: &mut Option<String>) -> String {
        let mut rendered = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, token) = rest.split_at(at);
            let word = &token[1..];
            // The whole word counts: `$PORT_33060` does not begin with `$PORT_3306`.
            let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (word, after) = word.split_at(end.unwrap_or(word.len()));
            rendered.push_str(before);
            if let Some(meaning) = self.meaning(word) {
                rendered.push_str(&meaning);
            } else {
                if is_token(word) {
                    missing.get_or_insert_with(|| word.to_owned());
                }
                rendered.push('$');
                rendered.push_str(word);
            }
            rest = after;
        }
        rendered.push_str(rest);
        rendered
    }

    fn meaning(&self, word: &str) -> Option<String> {
        match word {
            "HOST" => Some(self.host.to_owned()),
            "PORT" => self.port.map(|port| port.to_string()),
            _ => {
                let number = word.strip_prefix("PORT_")?.parse().ok()?;
                self.port_of(number).map(|port| port.to_string())
            }
        }
    }
}

fn is_token(word: &str) -> bool {
    let number = word.strip_prefix("PORT_").map(str::parse::<u16>);
    word == "PORT" || matches!(number, Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::UriShape;

    fn ports(of: &[(&str, u16)]) -> BTreeMap<ContainerPort, u16> {
        of.iter().map(|(port, host)| (ContainerPort::parse(port).unwrap(), *host)).collect()
    }

    #[test]
    fn tokens_are_replaced_at_any_depth_and_the_longest_word_counts() {
        let ports = ports(&[("3306/tcp", 20001), ("33060/tcp", 20002), ("53/udp", 20003)]);
        let tokens = Tokens::new(&Credentials::default(), "10.0.0.1", &ports);
        let document = json!({
            "uri": "mysql://$HOST:$PORT_3306/x", "x": ["$PORT_33060$PORT_3306", {"y": "$PORT"}],
            "n": 1, "no": null, "$HOST": "a $HOST's $PORT_53.",
            "kept": "$HOSTNAME $PORT_1 $PORTS $PORT_ $ $$HOST ${HOST} $host $PORT_3306_x 5$",
        });
        assert_eq!(
            tokens.render(&document),
            json!({
                "uri": "mysql://10.0.0.1:20001/x", "x": ["2000220001", {"y": "20001"}],
                "n": 1, "no": null, "$HOST": "a 10.0.0.1's 20003.",
                "kept": "$HOSTNAME $PORT_1 $PORTS $PORT_ $ $10.0.0.1 ${HOST} $host $PORT_3306_x 5$",
            })
        );
    }

    #[test]
    fn without_ports_their_tokens_stay() {
        let none = BTreeMap::new();
        let tokens = Tokens::new(&Credentials::default(), "h", &none);
        assert_eq!(tokens.render(&json!("$HOST:$PORT/$PORT_80")), json!("h:$PORT/$PORT_80"));
        for (document, token) in
            [(json!(["secret $PORT_80"]), "$PORT_80"), (json!("$PORT"), "$PORT")]
        {
            let error = tokens.fill(&document).unwrap_err().to_string();
            assert_eq!(error, format!("the container publishes no port for {token}"));
        }
        let words = json!({"$PORT": "$HOST $PORTS $PORT_ $PORT_x"});
        assert_eq!(tokens.fill(&words).unwrap(), json!({"$PORT": "h $PORTS $PORT_ $PORT_x"}));
    }

    #[test]
    fn port_is_the_one_of_the_uri_or_the_lowest_tcp_port() {
        let ports = ports(&[("9/udp", 20000), ("4222/tcp", 20001), ("8222/tcp", 20002)]);
        let port = |shape: &Credentials| Tokens::new(shape, "h", &ports).port();
        assert_eq!(port(&Credentials::default()), Some(20001));
        let uri = UriShape { prefix: None, port: ContainerPort::parse("8222").ok() };
        assert_eq!(port(&Credentials { uri: Some(uri), ..Credentials::default() }), Some(20002));
    }
}
