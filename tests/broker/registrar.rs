//! `broker-registrar` against a strict stand-in for Cloud Foundry, with the real broker behind it.

use serde_json::{Value, json};

use crate::support::{
    BROKER, CLIENT, Finished, KnownBroker, Platform, TestBroker, registrar, registrar_settings,
    service_file,
};

/// A platform, and a broker whose images are of no interest here.
async fn scene() -> (Platform, TestBroker, Value) {
    scene_with(&["op-redis7.yml", "op-postgres17.yml"]).await
}

async fn scene_with(files: &[&str]) -> (Platform, TestBroker, Value) {
    let files: Vec<_> = files.iter().map(|file| service_file(file)).collect();
    let builder = TestBroker::builder().services(&files).setting("fetch_images: false");
    let broker = builder.start_unready().await;
    let platform = Platform::start().await;
    let settings = registrar_settings(&platform, &broker);
    (platform, broker, settings)
}

#[track_caller]
fn succeeds(done: &Finished, words: &[&str]) {
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    for words in words {
        assert!(done.stdout.contains(words), "{words:?} is not in:\n{}", done.stdout);
    }
}

fn everybody(platform: &Platform) -> bool {
    let access = platform.access();
    !access.is_empty() && access.values().all(|(kind, _)| kind == "public")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shipped_service_is_opened_to_all_and_a_second_run_changes_nothing() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("services");
    let mut files: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("op-"))
        .collect();
    files.sort();
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let (platform, broker, settings) = scene_with(&names).await;
    let first = registrar("register", &settings, &[]).await;
    succeeds(&first, &["Service broker 'docker-broker' does not exist - creating broker\nOK\n"]);
    let catalog = broker.client.get("/v2/catalog").await.expect(200);
    let services = catalog["services"].as_array().unwrap();
    assert_eq!(services.len(), files.len());
    for service in services {
        let name = service["name"].as_str().unwrap();
        let line = format!(
            "Enabling access to all plans of service {name} for all orgs as admin...\nOK\n"
        );
        succeeds(&first, &[&line]);
    }
    assert!(everybody(&platform), "{:?}", platform.access());
    let plans = services.iter().map(|service| service["plans"].as_array().unwrap().len());
    assert_eq!(platform.access().len(), plans.sum::<usize>());
    let changes = platform.changes();
    assert!(changes.len() > files.len(), "{changes:?}");
    let second = registrar("register", &settings, &[]).await;
    succeeds(&second, &["already exists - updating broker", "Nothing had to be changed"]);
    // The login may have changed, which only sending it again can tell.
    let changes = platform.changes();
    assert!(changes.len() == 1 && changes[0].starts_with("PATCH /v3/service_brokers/"));
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_url_and_password_update_the_broker_that_is_known() {
    let (platform, mut broker, mut settings) = scene().await;
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    let guid = platform.state().brokers[0].guid.clone();
    broker.client.password = "another-broker-password".to_owned();
    broker.kill();
    broker.launch().await;
    settings["broker"]["password"] = broker.client.password.clone().into();
    settings["broker"]["url"] = format!("http://{}/", broker.client.address).into();
    let refused = registrar("register", &settings, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("has moved, set servicebroker.take_over: true"), "{refused:?}");
    settings["broker"]["take_over"] = true.into();
    let moved = registrar("register", &settings, &[]).await;
    succeeds(&moved, &["It was registered at http://127.0.0.1:", "docker-broker is registered."]);
    settings["broker"]["name"] = "marketplace".into();
    let renamed = registrar("register", &settings, &[]).await;
    succeeds(&renamed, &["It was registered under the name docker-broker"]);
    let state = platform.state();
    let [known] = state.brokers.as_slice() else { panic!("{:?}", state.brokers) };
    assert_eq!((known.guid.as_str(), known.name.as_str()), (guid.as_str(), "marketplace"));
    assert_eq!(known.url, format!("http://{}", broker.client.address));
    assert_eq!(known.login.1, broker.client.password);
    drop(state);
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_service_is_opened_and_a_plan_that_left_is_reported_while_it_has_instances() {
    let (platform, mut broker, settings) = scene().await;
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    platform.add_instance("redis7", "dev");
    broker.kill();
    broker.builder.set_services(&["op-postgres17.yml", "op-nats2.yml"].map(service_file));
    broker.launch().await;
    let mut moved = settings.clone();
    moved["broker"]["take_over"] = true.into();
    moved["broker"]["url"] = format!("http://{}", broker.client.address).into();
    let done = registrar("register", &moved, &[]).await;
    let kept = "Plan redis7/small is no longer in the catalog; it stays for its instances";
    let gone = "Plan redis7/large is no longer in the catalog and is gone";
    succeeds(&done, &["of service nats2 for all orgs as admin...\nOK", kept, gone]);
    assert!(!done.stdout.contains("plans of service redis7"), "{}", done.stdout);
    assert!(everybody(&platform));
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_given_to_named_organizations_and_taken_from_nobody_unless_asked() {
    let (platform, _broker, mut settings) = scene().await;
    settings["cf"]["organizations"] = json!(["two", "four, 5%2C"]);
    let done = registrar("register", &settings, &[]).await;
    let line = "plans of service redis7 for the orgs two, four, 5%2C as admin...";
    succeeds(&done, &[line]);
    let has = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = ("organization".to_owned(), names);
        assert!(
            platform.access().values().all(|found| *found == wanted),
            "{:?}",
            platform.access()
        );
    };
    has(&["four, 5%2C", "two"]);
    settings["cf"]["organizations"] = json!(["one"]);
    succeeds(&registrar("register", &settings, &[]).await, &["for the org one as admin"]);
    has(&["four, 5%2C", "one", "two"]);
    let again = registrar("register", &settings, &[]).await;
    succeeds(&again, &["2 more organizations have access; set cf.remove_access", "Nothing had"]);
    settings["cf"]["remove_access"] = true.into();
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    has(&["one"]);
    settings["cf"]["service_access"] = "manual".into();
    settings["cf"]["organizations"] = json!([]);
    succeeds(&registrar("register", &settings, &[]).await, &["is left as it is", "Nothing had"]);
    has(&["one"]);
    settings["cf"]["service_access"] = "disable".into();
    succeeds(&registrar("register", &settings, &[]).await, &["Disabling access to all plans of"]);
    assert!(platform.access().values().all(|(kind, _)| kind == "admin"));
    settings["cf"]["service_access"] = "enable".into();
    settings["cf"]["organizations"] = json!(["nobody knows it"]);
    let unknown = registrar("register", &settings, &[]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no organization nobody knows it; check cf.organizations"));
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let (platform, mut broker, mut settings) = scene().await;
    let done = registrar("register --dry-run", &settings, &[]).await;
    let words = ["does not exist - creating broker", "create the broker", "  add redis7/small\n"];
    succeeds(&done, &words);
    assert_eq!(platform.changes(), [""; 0]);
    settings["cf"]["service_access"] = "manual".into();
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    platform.changes();
    settings["cf"]["service_access"] = "enable".into();
    let done = registrar("register --dry-run", &settings, &[]).await;
    succeeds(&done, &["open redis7/small to all organizations", "read its catalog"]);
    platform.add_instance("redis7", "dev");
    // One plan of redis7 has left and one of nats2 has come.
    broker.kill();
    broker.builder.set_services(&["op-postgres17.yml", "op-nats2.yml"].map(service_file));
    broker.launch().await;
    let mut moved = settings.clone();
    moved["broker"]["url"] = format!("http://{}", broker.client.address).into();
    moved["broker"]["take_over"] = true.into();
    let done = registrar("register --dry-run", &moved, &[]).await;
    let words = ["  add nats2/large\n", "take redis7/large out of the marketplace"];
    succeeds(&done, &words);
    settings["purge"] = true.into();
    let done = registrar("deregister --dry-run", &settings, &[]).await;
    succeeds(&done, &["forget 1 instance of redis7 in space dev of org one", "delete the broker"]);
    assert_eq!(platform.changes(), [""; 0]);
    assert!(platform.access().values().all(|(kind, _)| kind == "admin"));
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn deregistering_refuses_while_there_are_instances_and_names_them() {
    let (platform, _broker, mut settings) = scene().await;
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    for (service, space) in [("redis7", "dev"), ("redis7", "dev"), ("postgres17", "prod")] {
        platform.add_instance(service, space);
    }
    platform.changes();
    let refused = registrar("deregister", &settings, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in [
        "2 instances of redis7 in space dev of org one",
        "1 instance of postgres17 in space prod of org one",
        "cf delete-service, or set purge: true",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(platform.changes(), [""; 0]);
    settings["purge"] = true.into();
    let purged = registrar("deregister", &settings, &[]).await;
    let words = ["Purging service redis7...\nOK", "Their containers run on, and their data stays"];
    succeeds(&purged, &words);
    succeeds(&purged, &["2 instances of redis7 in space dev of org one"]);
    assert!(platform.state().brokers.is_empty() && platform.state().instances.is_empty());
    let again = registrar("deregister", &settings, &[]).await;
    succeeds(&again, &["'docker-broker' does not exist - nothing to do"]);
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_instances_is_deregistered_but_never_another_one_of_its_name() {
    let (platform, _broker, settings) = scene().await;
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    let mut other = settings.clone();
    other["broker"]["url"] = "http://other.example.com".into();
    let refused = registrar("deregister", &other, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("not docker-broker at http://other.example.com"),
        "{refused:?}"
    );
    // Its name was changed and it was not registered anew.
    let mut renamed = settings.clone();
    renamed["broker"]["name"] = "marketplace".into();
    let refused = registrar("deregister", &renamed, &[]).await;
    assert!(refused.stderr.contains("the broker docker-broker is registered at"), "{refused:?}");
    // A space's broker of the same name and URL is that space's.
    platform.state().brokers[0].space = Some("space".to_owned());
    let refused = registrar("deregister", &settings, &[]).await;
    assert!(refused.stderr.contains("is registered, by a space, at"), "{refused:?}");
    platform.state().brokers[0].space = None;
    let done = registrar("deregister", &settings, &[]).await;
    succeeds(&done, &["Deleting service broker docker-broker as admin...\nOK"]);
    assert!(!done.stdout.contains("containers run on"), "{}", done.stdout);
    assert!(platform.state().brokers.is_empty());
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_the_authority_logs_in_instead_of_a_user() {
    let (platform, _broker, mut settings) = scene().await;
    let api = platform.url();
    settings["cf"] = json!({ "api_url": api, "client_id": CLIENT.0, "client_secret": CLIENT.1 });
    let done = registrar("register", &settings, &[]).await;
    succeeds(&done, &["for all orgs as registrar...\nOK"]);
    platform.assert_contented();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    for refused in [false, true] {
        let (platform, _broker, settings) = scene().await;
        platform.state().requests_per_token = Some(3);
        platform.state().refresh_is_refused = refused;
        succeeds(&registrar("register", &settings, &[]).await, &["is registered."]);
        assert!(everybody(&platform));
        let requests = platform.state().requests.clone();
        assert!(requests.iter().filter(|line| line.contains("/oauth/token")).count() > 2);
        platform.assert_contented();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_brokers_of_the_platform_are_left_alone() {
    let (platform, _broker, settings) = scene().await;
    let others: Vec<KnownBroker> = (0..5)
        .map(|n| KnownBroker {
            guid: format!("other-{n}"),
            name: format!("other-{n}"),
            url: format!("https://other-{n}.example.com"),
            login: ("a".to_owned(), "b".to_owned()),
            space: None,
        })
        .collect();
    platform.state().brokers = others;
    succeeds(&registrar("register", &settings, &[]).await, &[]);
    succeeds(&registrar("deregister", &settings, &[]).await, &[]);
    let state = platform.state();
    assert_eq!(state.brokers.len(), 5);
    assert!(state.brokers.iter().all(|known| known.name != BROKER && known.login.1 == "b"));
}
