//! Which ports of a container that somebody else made can be reached from outside.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use bollard::models::PortBinding;

use crate::catalog::ContainerPort;

/// A port as a container publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Port in the container.
    pub inner: ContainerPort,
    /// Address of the host; `None`: all of them.
    pub address: Option<IpAddr>,
    /// For IPv6 alone. Docker 20.10 chooses another port there than for IPv4.
    pub is_ipv6: bool,
    /// Port of the host.
    pub outer: u16,
}

impl Published {
    /// Whether whoever connects to `address` reaches it.
    #[must_use]
    pub fn is_on(&self, address: IpAddr) -> bool {
        self.address.map_or(!self.is_ipv6 || address.is_ipv6(), |outer| is_on(outer, address))
    }
}

/// Whether whoever connects to `address` reaches what is published on `outer`. For an address that
/// means all of a family nothing less will do.
pub(super) fn is_on(outer: IpAddr, address: IpAddr) -> bool {
    outer == address || (outer.is_unspecified() && outer.is_ipv4() == address.is_ipv4())
}

/// As dockerd lists them.
pub(super) fn published(ports: HashMap<String, Option<Vec<PortBinding>>>) -> Vec<Published> {
    let bindings = ports
        .into_iter()
        .filter_map(|(inner, bindings)| Some((ContainerPort::parse(&inner).ok()?, bindings?)));
    let one = |inner, binding: PortBinding| {
        let is_ipv6 = binding.host_ip.as_ref().is_some_and(|text| text.contains(':'));
        let address = binding.host_ip.and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.filter(|address| !address.is_unspecified());
        Some(Published { inner, address, is_ipv6, outer: binding.host_port?.parse().ok()? })
    };
    bindings
        .flat_map(|(inner, bindings)| {
            bindings.into_iter().filter_map(move |binding| one(inner, binding))
        })
        .collect()
}

/// The host port of each container port that is published on `address`. Of several the lowest,
/// so that it is always the same.
#[must_use]
pub fn reachable(published: &[Published], address: IpAddr) -> BTreeMap<ContainerPort, u16> {
    let mut ports = BTreeMap::new();
    for one in published {
        if one.is_ipv6 && address.is_ipv4() {
            continue;
        }
        if address.is_unspecified() || one.address.is_none_or(|other| other == address) {
            let outer = ports.entry(one.inner).or_insert(one.outer);
            *outer = one.outer.min(*outer);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_reachable_when_it_is_published_on_the_address_or_on_all() {
        let binding = |ip: &str, port: &str| PortBinding {
            host_ip: Some(ip.to_owned()),
            host_port: Some(port.to_owned()),
        };
        let of = |inner: &str, bindings: Vec<PortBinding>| (inner.to_owned(), Some(bindings));
        let listed = published(HashMap::from([
            of("1/tcp", vec![binding("0.0.0.0", "9001"), binding("::", "9000")]),
            of("2/tcp", vec![binding("127.0.0.1", "9002"), binding("10.0.0.1", "9003")]),
            of("3/udp", vec![binding("10.0.0.2", "9004")]),
            of("4/tcp", vec![binding("", "9006"), binding("10.0.0.1", "9005")]),
            of("5/sctp", vec![binding("", "9007")]),
            ("6/tcp".to_owned(), None),
        ]));
        let shown = |address: &str| -> Vec<(String, u16)> {
            let ports = reachable(&listed, address.parse().unwrap());
            ports.into_iter().map(|(inner, outer)| (inner.to_string(), outer)).collect()
        };
        let pair = |inner: &str, outer| (inner.to_owned(), outer);
        assert_eq!(
            shown("10.0.0.1"),
            [pair("1/tcp", 9001), pair("2/tcp", 9003), pair("4/tcp", 9005)]
        );
        assert_eq!(shown("127.0.0.1")[1], pair("2/tcp", 9002));
        assert_eq!(shown("0.0.0.0")[2], pair("3/udp", 9004));
    }
}
