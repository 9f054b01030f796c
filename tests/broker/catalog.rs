//! The catalog: its entity tag, and what it shows.

use std::{collections::BTreeSet, fs, path::Path};

use http::Method;
use serde_json::{Map, Value, json};

use crate::support::{Client, Reply, SWITCH, TestBroker, switch_yaml};

async fn catalog_if(client: &Client, method: Method, if_none_match: Option<&str>) -> Reply {
    let mut headers = vec![("x-broker-api-version", "2.17")];
    headers.extend(if_none_match.map(|value| ("if-none-match", value)));
    client.with_login(method, "/v2/catalog", &headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_the_platform_has_already_is_not_sent_again() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let first = catalog_if(client, Method::GET, None).await;
    let etag = first.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    for matching in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        format!("\"other\",W/{etag} , \"third\""),
        "*".to_owned(),
    ] {
        let reply = catalog_if(client, Method::GET, Some(&matching)).await;
        assert_eq!((reply.status, reply.bytes.len()), (304, 0), "{matching}");
        assert_eq!(reply.header("etag"), Some(etag.as_str()), "{matching}");
        assert_eq!(reply.header("content-type"), None, "{matching}");
    }
    let bare = etag.trim_matches('"').to_owned();
    for other in ["", "\"", "\"other\"", "W/", ",,,", &bare, &etag.to_uppercase()] {
        let reply = catalog_if(client, Method::GET, Some(other)).await;
        assert_eq!((reply.status, &reply.bytes), (200, &first.bytes), "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_as_get_is_without_the_body() {
    let broker = TestBroker::builder().start_unready().await;
    let client = &broker.client;
    let get = catalog_if(client, Method::GET, None).await;
    let head = catalog_if(client, Method::HEAD, None).await;
    assert_eq!((head.status, head.bytes.len()), (200, 0));
    for name in ["etag", "content-type", "content-length"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_maintenance_info_and_flags_of_a_plan_are_shown() {
    let extra = r"
    free: false
    bindable: false
    plan_updateable: false
    binding_rotatable: true
    maximum_polling_duration: 600
    maintenance_info: {version: 1.2.3+build, description: a new base image}
    metadata: {bullets: [one], costs: [{amount: {usd: 1.5}, unit: MONTHLY}]}
    schemas:
      service_instance:
        create: {parameters: {type: object, properties: {mode: {type: string}}}}
        update: {parameters: {$schema: 'http://json-schema.org/draft-04/schema#', type: object}}
      service_binding: {create: {parameters: {type: object}}}
";
    let yaml = switch_yaml("300s", extra);
    let broker = TestBroker::builder().yaml(yaml, SWITCH.0, SWITCH.1).start_unready().await;
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    let plan = &catalog["services"][0]["plans"][0];
    for (key, value) in [
        ("free", json!(false)),
        ("bindable", json!(false)),
        ("plan_updateable", json!(false)),
        ("binding_rotatable", json!(true)),
        ("maximum_polling_duration", json!(600)),
        ("maintenance_info", json!({"version": "1.2.3+build", "description": "a new base image"})),
        (
            "metadata",
            json!({"bullets": ["one"], "costs": [{"amount": {"usd": 1.5}, "unit": "MONTHLY"}]}),
        ),
    ] {
        assert_eq!(plan[key], value, "{key}");
    }
    let schemas = &plan["schemas"];
    let draft = |schema: &Value| {
        assert_eq!(schema["parameters"]["type"], "object");
        schema["parameters"]["$schema"].as_str().unwrap().to_owned()
    };
    assert!(draft(&schemas["service_instance"]["create"]).contains("draft-07"));
    assert!(draft(&schemas["service_instance"]["update"]).contains("draft-04"));
    assert!(draft(&schemas["service_binding"]["create"]).contains("draft-07"));
    let properties = &schemas["service_instance"]["create"]["parameters"]["properties"];
    assert_eq!(properties["mode"]["type"], "string");
}

/// What cf-containers-broker showed of a service in the file of an operator.
fn as_it_was(service: &Value) -> Value {
    let or = |map: &Value, key: &str, default: Value| map.get(key).cloned().unwrap_or(default);
    let plan = |plan: &Value| {
        json!({
            "id": plan["id"], "name": plan["name"], "description": plan["description"],
            "metadata": plan["metadata"], "free": or(plan, "free", json!(true)),
        })
    };
    let plans = service["plans"].as_array().expect("a list");
    json!({
        "id": service["id"], "name": service["name"], "description": service["description"],
        "bindable": or(service, "bindable", json!(true)),
        "tags": or(service, "tags", json!([])),
        "metadata": service["metadata"],
        "requires": or(service, "requires", json!([])),
        "plan_updateable": true,
        "plans": plans.iter().map(plan).collect::<Vec<_>>(),
    })
}

/// Splits an object into the keys of `known` and the names of the others.
fn split(object: &Value, known: &Value) -> (Value, BTreeSet<String>) {
    let known = known.as_object().expect("an object");
    let (mine, rest): (Map<_, _>, Map<_, _>) = object
        .as_object()
        .expect("an object")
        .clone()
        .into_iter()
        .partition(|(k, _)| known.contains_key(k));
    (Value::Object(mine), rest.into_iter().map(|(key, _)| key).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_cf_containers_broker_give_its_catalog() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/legacy-services");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 15);
    let broker = TestBroker::builder()
        .services(&files)
        .setting("fetch_images: false")
        .setting("pull: never")
        .start_unready()
        .await;
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    let shown = catalog["services"].as_array().unwrap();
    assert_eq!(shown.len(), files.len());
    let extra = ["instances_retrievable", "bindings_retrievable", "allow_context_updates"];
    for (file, shown) in files.iter().zip(shown) {
        let operations: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let expected = as_it_was(&operations[0]["value"]);
        let (mut mine, others) = split(shown, &expected);
        assert_eq!(others, extra.map(str::to_owned).into(), "{}", file.display());
        let plans = expected["plans"].as_array().unwrap();
        for (plan, expected) in mine["plans"].as_array_mut().unwrap().iter_mut().zip(plans) {
            let (known, others) = split(plan, expected);
            assert_eq!(others, ["maintenance_info".to_owned()].into(), "{}", file.display());
            *plan = known;
        }
        assert_eq!(mine, expected, "{}", file.display());
    }
}
