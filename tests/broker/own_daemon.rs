//! The suite's own dockerd keeps what its tests rely on.

use crate::support::{Daemon, docker};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_its_own_serves_a_broker_survives_a_kill_and_leaves_nothing() {
    let mut daemon = Daemon::start().await;
    daemon.load_image("redis:7");
    {
        let broker = daemon.broker().start().await;
        let client = &broker.client;
        client.provision("r1").await.expect(201);
        let bound = client.bind("r1", "b1").await.expect(201);
        let address = daemon.address();
        assert_eq!(bound["credentials"]["host"], address.as_str());
        let name = broker.container("r1");
        let running = ["inspect", "--format", "{{.State.Running}}", &name];
        assert_eq!(daemon.docker_ok(&running), "true");
        assert!(!docker(&running).status.success(), "the machine's own daemon must not have it");
        daemon.kill();
        assert!(!daemon.docker(&["version"]).status.success());
        daemon.start_again().await;
        assert!(daemon.docker(&["inspect", &name]).status.success());
        daemon.stop();
        daemon.start_again().await;
        assert!(daemon.docker(&["inspect", &name]).status.success());
    }
    let namespace = daemon.namespace();
    drop(daemon);
    assert!(!namespace.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(namespace.to_str().unwrap()), "{mounts}");
}
