//! What an operator gets wrong, or what a machine lacks: the log says what and what to do, monit
//! shows the job failing, and nothing is damaged.

use super::{
    agent::{Agent, Next},
    client::Redis,
    deployment::Deployment,
    deploys::{DISK, REDIS, ready},
    machine::Machine,
};

#[test]
fn without_a_persistent_disk_nothing_starts_and_the_deploy_says_why() {
    let machine = Machine::boot_without_disk();
    let mut agent = Agent::new(&machine);
    agent.apply(Deployment::of(&machine, &[REDIS]).jobs());
    let ended = agent.pre_start();
    let docker =
        ended.iter().find(|script| script.job == "docker").expect("docker has a pre-start");
    assert!(!docker.success, "{ended:?}");
    for words in ["/var/vcap/store", "persistent_disk"] {
        assert!(docker.said.contains(words), "{}", docker.said);
    }
    // The same after a reboot that did not bring the disk back, when there is no pre-start.
    agent.start();
    agent.monit.wait_until_failing("docker");
    machine.logged("docker", "persistent_disk");
    assert_eq!(machine.sh("ls -A /var/vcap/store"), "", "nothing is written beside the disk");
}

#[test]
fn a_full_disk_is_named_in_the_logs_and_with_room_everything_is_as_before() {
    const SMALL: u64 = 512;
    let machine = Machine::boot(SMALL);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let (platform, plan) = (deployment.platform(), deployment.plan("redis7"));
    platform.provision("r1", &plan);
    let redis = Redis::of(&platform.bind("r1", &plan));
    redis.expect("SET key kept");
    machine.sh("head -c 1G /dev/zero > /var/vcap/store/filler 2> /dev/null || true; sync");

    let ended = agent.begin_update(deployment.jobs());
    let broker = ended.iter().find(|script| script.job == "docker-broker").expect("a pre-start");
    assert!(!broker.success && broker.said.contains("/var/vcap/store is full"), "{ended:?}");
    // The same after a reboot, when there is no pre-start.
    agent.start();
    agent.monit.wait_until_failing("docker-broker");
    machine.logged("docker-broker", "start: /var/vcap/store is full");
    assert_eq!(redis.expect("GET key"), "kept", "what is stored can be read");
    machine.sh("rm /var/vcap/store/filler");
    agent.monit.wait_until_running();
    ready(&platform);
    assert_eq!(redis.expect("GET key"), "kept");
    agent.release_disk(Next::Delete);
}

#[test]
fn a_port_in_use_a_wrong_certificate_or_no_dockerd_are_named_and_can_be_put_right() {
    let machine = Machine::boot(DISK);
    let deployment = Deployment::of(&machine, &[REDIS]);
    let mut agent = Agent::new(&machine);
    agent.deploy(deployment.jobs());
    let platform = deployment.platform();

    // Without dockerd the broker stays and says so.
    agent.monit.stop_one("docker");
    machine.logged("docker-broker", "cannot be reached");
    assert_eq!(agent.monit.status()["docker-broker"], "OK");
    let (status, body) = platform.send("GET", "/readyz", None).expect("the broker answers");
    assert_eq!(status, 503, "{body}");
    agent.monit.start_one("docker");
    ready(&platform);

    // Somebody else has its port.
    agent.monit.stop_one("docker-broker");
    let errand = agent.errand("sanity-test");
    assert!(!errand.success && errand.said.contains("5555"), "{}", errand.said);
    let mut other = machine.exec(&["nc", "-k", "-l", "5555"]).spawn().expect("it can be started");
    machine.listening(5555);
    agent.monit.start_one("docker-broker");
    agent.monit.wait_until_failing("docker-broker");
    machine.logged("docker-broker", "ddress already in use");
    machine.sh("pkill -x nc");
    other.wait().expect("it ends");
    agent.monit.wait_until_running();
    ready(&platform);

    let wrong = deployment
        .with_file("operators/enable-broker-tls.yml")
        .broker_property("tls/certificate", "no certificate");
    let ended = agent.begin_update(wrong.jobs());
    let broker = ended.iter().find(|script| script.job == "docker-broker").expect("a pre-start");
    assert!(!broker.success && broker.said.contains("certificate"), "{ended:?}");
    agent.update(deployment.jobs());
    ready(&platform);
}
