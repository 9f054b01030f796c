//! The errands that register the broker with a platform, and deregister it.

use super::{agent::Agent, deployment::Deployment, deploys, machine::Machine};
use crate::support::cloud_foundry::{ADMIN, Platform, Tls};

#[tokio::test(flavor = "multi_thread")]
async fn the_errands_register_the_broker_by_its_link_twice_and_deregister_it_twice() {
    let machine = Machine::boot(deploys::DISK);
    let platform = Platform::at(&machine.gateway(), Tls::None).await;
    let url = platform.url();
    let deployment = Deployment::of(&machine, &[deploys::REDIS])
        .given(&[
            ("cf-api-url", url.as_str()),
            ("cf-admin-username", ADMIN.0),
            ("cf-admin-password", ADMIN.1),
        ])
        .with_file("operators/cf-integration.yml");
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());

    let run = |errand| {
        let ended = agent.errand(errand);
        assert!(ended.success, "{errand}: {}", ended.said);
        for secret in [ADMIN.1, &deployment.password()] {
            assert!(!ended.said.contains(secret), "{}", ended.said);
        }
        ended.said
    };
    let first = run("broker-registrar");
    let line = "Enabling access to all plans of service redis7 for all orgs as admin...\nOK";
    assert!(first.contains(line), "{first}");
    assert!(platform.access().values().all(|(kind, _)| kind == "public"));
    let second = run("broker-registrar");
    assert!(second.contains("Nothing had to be changed"), "{second}");

    platform.add_instance("redis7", "dev");
    let refused = agent.errand("broker-deregistrar");
    assert!(!refused.success && refused.said.contains("1 instance of redis7"), "{}", refused.said);
    platform.state().instances.clear();
    let gone = run("broker-deregistrar");
    assert!(gone.contains("Deleting service broker docker-broker as admin...\nOK"), "{gone}");
    let again = run("broker-deregistrar");
    assert!(again.contains("does not exist - nothing to do"), "{again}");
    platform.assert_contented();
}
