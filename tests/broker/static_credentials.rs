//! `credentials.static`: any JSON, with tokens and handlebars in its strings.

use serde_json::{Value, json};

use crate::support::TestBroker;

const SERVICE: (&str, &str) = ("static-service", "static-plan");

/// A plan with two ports whose numbers begin alike.
fn yaml() -> String {
    format!(
        r"services:
- id: {}
  name: static
  description: static credentials
  plans:
  - id: {}
    name: plan
    description: a plan
    container:
      image: busybox:1
      command: [sh, -c, 'httpd -p 3306 && exec httpd -f -p 33060']
      expose_ports: [3306/tcp, 33060/tcp]
      readiness: {{tcp: [3306/tcp, 33060/tcp]}}
      stop_timeout: 0s
    credentials:
      uri: {{port: 3306/tcp}}
      username: {{value: 'a$HOST'}}
      static:
        url: 'mysql://$HOST:$PORT_3306/x?admin=$HOST:$PORT_33060&as={{{{username}}}}'
        port: $PORT
        $HOST: {{number: 7, nothing: null, yes: true, real: 1.5}}
        list: ['$PORT_33060', ['$PORT_3306/$PORT_33060'], {{deep: '$PORTS {{{{instance_id}}}}'}}]
",
        SERVICE.0, SERVICE.1
    )
}

/// What an instance with these ports shows.
fn shown(instance: &str, port: &str, admin: &str) -> Value {
    json!({
        "url": format!("mysql://127.0.0.1:{port}/x?admin=127.0.0.1:{admin}&as=a$HOST"),
        "port": port,
        "$HOST": {"number": 7, "nothing": null, "yes": true, "real": 1.5},
        "list": [admin, [format!("{port}/{admin}")], {"deep": format!("$PORTS {instance}")}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_shows_its_own_ports_in_its_static_credentials() {
    let mut broker = TestBroker::builder().yaml(yaml(), SERVICE.0, SERVICE.1).start().await;
    let mut seen = Vec::new();
    for instance in ["one", "two"] {
        broker.client.provision(instance).await.expect(201);
        let bound = broker.client.bind(instance, "b").await.expect(201);
        let ports: Vec<String> = bound["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| endpoint["ports"][0].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(bound["credentials"], shown(instance, &ports[0], &ports[1]));
        assert!(ports.iter().all(|port| !seen.contains(port)), "{ports:?} after {seen:?}");
        seen.extend(ports);
    }
    // Nothing was frozen by the first one, nor by a restart.
    broker.kill();
    broker.launch().await;
    broker.ready().await;
    for (instance, ports) in ["one", "two"].into_iter().zip(seen.chunks(2)) {
        let bound = broker.client.bind(instance, "again").await.expect(201);
        assert_eq!(bound["credentials"], shown(instance, &ports[0], &ports[1]));
    }
}
