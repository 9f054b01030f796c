//! The route table: a pure function from method and path to a [`Route`].

use http::Method;
use percent_encoding::percent_decode_str;

use super::reply::Problem;
use crate::catalog::{BindingId, InstanceId};

/// Every endpoint of OSB 2.17.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Catalog,
    Provision(InstanceId),
    FetchInstance(InstanceId),
    Update(InstanceId),
    Deprovision(InstanceId),
    LastOperation(InstanceId),
    Bind(InstanceId, BindingId),
    FetchBinding(InstanceId, BindingId),
    Unbind(InstanceId, BindingId),
    LastBindingOperation(InstanceId, BindingId),
}

impl Route {
    /// Finds the endpoint; HEAD is GET without a body.
    pub(super) fn parse(method: &Method, path: &str) -> Result<Self, Problem> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        match segments.as_slice() {
            ["v2", "catalog"] => match *method {
                Method::GET => Ok(Self::Catalog),
                _ => Err(Problem::method_not_allowed("GET, HEAD")),
            },
            ["v2", "service_instances", id] => {
                let id = instance(id)?;
                match *method {
                    Method::PUT => Ok(Self::Provision(id)),
                    Method::GET => Ok(Self::FetchInstance(id)),
                    Method::PATCH => Ok(Self::Update(id)),
                    Method::DELETE => Ok(Self::Deprovision(id)),
                    _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, PATCH, DELETE")),
                }
            }
            ["v2", "service_instances", id, "last_operation"] => {
                let id = instance(id)?;
                match *method {
                    Method::GET => Ok(Self::LastOperation(id)),
                    _ => Err(Problem::method_not_allowed("GET, HEAD")),
                }
            }
            ["v2", "service_instances", id, "service_bindings", binding] => {
                let (id, binding) = (instance(id)?, binding_id(binding)?);
                match *method {
                    Method::PUT => Ok(Self::Bind(id, binding)),
                    Method::GET => Ok(Self::FetchBinding(id, binding)),
                    Method::DELETE => Ok(Self::Unbind(id, binding)),
                    _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, DELETE")),
                }
            }
            ["v2", "service_instances", id, "service_bindings", binding, "last_operation"] => {
                let (id, binding) = (instance(id)?, binding_id(binding)?);
                match *method {
                    Method::GET => Ok(Self::LastBindingOperation(id, binding)),
                    _ => Err(Problem::method_not_allowed("GET, HEAD")),
                }
            }
            _ => Err(Problem::no_such_route()),
        }
    }
}

fn instance(segment: &str) -> Result<InstanceId, Problem> {
    InstanceId::parse(decode(segment)?).map_err(|error| Problem::bad_request(error.to_string()))
}

fn binding_id(segment: &str) -> Result<BindingId, Problem> {
    BindingId::parse(decode(segment)?).map_err(|error| Problem::bad_request(error.to_string()))
}

/// Decodes an id exactly once.
fn decode(segment: &str) -> Result<String, Problem> {
    let bytes = segment.as_bytes();
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let well_formed = escapes
        .map(|(at, _)| bytes.get(at + 1..at + 3))
        .all(|digits| digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    // Left as they are, `%zz` and `%25zz` would be the same id.
    if !well_formed {
        return Err(Problem::bad_request("an id in the URL is not correctly percent-encoded"));
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Problem::bad_request("an id in the URL is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        InstanceId::parse(text).unwrap()
    }

    #[test]
    fn ids_are_decoded_exactly_once_and_a_plus_is_a_plus() {
        for (segment, decoded) in [
            ("T-0123456789", "T-0123456789"),
            ("a%2Fb", "a/b"),
            ("%2e%2e", ".."),
            ("..", ".."),
            ("a+b", "a+b"),
            ("a%20b", "a b"),
            ("%2541", "%41"),
            ("%41", "A"),
        ] {
            let path = format!("/v2/service_instances/{segment}");
            assert_eq!(Route::parse(&Method::PUT, &path).unwrap(), Route::Provision(id(decoded)));
        }
    }

    #[test]
    fn what_is_no_id_is_a_bad_request_and_what_is_no_route_is_not_found() {
        let status = |method, path: &str| Route::parse(&method, path).unwrap_err().status();
        let long = format!("/v2/service_instances/{}", "a".repeat(256));
        for path in [
            "/v2/service_instances/%zz",
            "/v2/service_instances/%ff",
            "/v2/service_instances/",
            "/v2/service_instances/%00",
            &long,
        ] {
            assert_eq!(status(Method::PUT, path), 400, "{path}");
        }
        for path in ["/", "/v2", "/v2/catalog/", "/v3/catalog", "/v2/service_instances/a/b"] {
            assert_eq!(status(Method::GET, path), 404, "{path}");
        }
        for path in
            ["/v2/catalog", "/v2/service_instances/a", "/v2/service_instances/a/last_operation"]
        {
            assert_eq!(status(Method::POST, path), 405, "{path}");
        }
    }
}
