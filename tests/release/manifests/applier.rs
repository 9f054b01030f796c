//! What applies ops files here does so as the bosh CLI does.

use serde_yaml::Value;

use crate::support::ops::{self, Variables};

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// `document` after `ops`, or the whole error.
fn applied(document: &str, ops: &str) -> Result<Value, String> {
    let mut document = yaml(document);
    ops::apply(&mut document, &yaml(ops)).map_err(|error| format!("{error:#}"))?;
    Ok(document)
}

#[test]
fn a_path_goes_through_keys_names_indices_and_to_the_end_of_a_list() {
    let document = "{a: [{name: x, b: 1}, {name: y, b: 2}]}";
    for (op, expected) in [
        ("{type: replace, path: /a/name=y/b, value: 3}", "{a: [{name: x, b: 1}, {name: y, b: 3}]}"),
        ("{type: replace, path: /a/0, value: 7}", "{a: [7, {name: y, b: 2}]}"),
        ("{type: replace, path: /a/-1/b, value: 7}", "{a: [{name: x, b: 1}, {name: y, b: 7}]}"),
        ("{type: replace, path: /a/-, value: 7}", "{a: [{name: x, b: 1}, {name: y, b: 2}, 7]}"),
        ("{type: remove, path: /a/name=x}", "{a: [{name: y, b: 2}]}"),
        ("{type: remove, path: /a/name=x/c?}", document),
        (
            "{type: replace, path: /c?/d/-, value: 1}",
            "{a: [{name: x, b: 1}, {name: y, b: 2}], c: {d: [1]}}",
        ),
        (
            "{type: replace, path: /a/name=z?/b, value: 1}",
            "{a: [{name: x, b: 1}, {name: y, b: 2}, {name: z, b: 1}]}",
        ),
        (
            "{type: replace, path: /p~1q?, value: 1}",
            "{a: [{name: x, b: 1}, {name: y, b: 2}], p/q: 1}",
        ),
    ] {
        assert_eq!(applied(document, &format!("[{op}]")), Ok(yaml(expected)), "{op}");
    }
}

#[test]
fn what_the_bosh_cli_refuses_is_refused() {
    for (op, expected) in [
        ("{type: replace, path: /b, value: 1}", "no key b"),
        ("{type: replace, path: /b/c, value: 1}", "no key b"),
        ("{type: replace, path: /a/name=z/b, value: 1}", "no item with name=z"),
        ("{type: replace, path: /a/5, value: 1}", "no item 5"),
        ("{type: remove, path: /b}", "no key b"),
        ("{type: replace, path: a, value: 1}", "begins with /"),
        ("{type: replace, path: /a}", "has no value"),
        ("{type: remove, path: /a, value: 1}", "has a value"),
        ("{type: append, path: /a, value: 1}", "neither replace nor remove"),
        ("{type: remove, path: /a, pth: 1}", "unknown key"),
    ] {
        let error = applied("{a: [{name: x}]}", &format!("[{op}]")).unwrap_err();
        assert!(error.contains(expected), "{op}: {error}");
    }
}

#[test]
fn a_variable_alone_keeps_its_type_and_inside_of_a_text_becomes_text() {
    let variables: Variables =
        [("n".to_owned(), yaml("5")), ("c".to_owned(), yaml("{ca: PEM, more: ((n))}"))].into();
    let document = yaml("{a: ((n)), b: x((n))y((n)), c: ((c.ca)), d: '((not a variable))'}");
    let expected = yaml("{a: 5, b: x5y5, c: PEM, d: '((not a variable))'}");
    assert_eq!(ops::interpolate(&document, &variables).unwrap(), expected);
    let missing = ops::interpolate(&yaml("[((n)), ((o)), ((p.q))]"), &variables).unwrap_err();
    assert_eq!(missing.to_string(), r#"variables without a value: {"o", "p"}"#);
}
