//! Where members are reached: a template, so that tests can run members as processes of one machine.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::names::{CLIENT_PORT, METRICS_PORT, PEER_PORT, peer_service_name};

/// How a member's host is made from its names: text with `{member}`, `{service}`, `{namespace}`, `{cluster}`,
/// or `{loopback}`, which is an address in 127.0.0.0/8 that the member's names give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTemplate(String);

/// A template that names something unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    template: String,
    at: String,
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "member host template {:?} has {:?}, expected {}",
            self.template,
            self.at,
            PLACEHOLDERS.join(", ")
        )
    }
}

impl std::error::Error for Error {}

const PLACEHOLDERS: [&str; 5] = [
    "{member}",
    "{service}",
    "{namespace}",
    "{cluster}",
    "{loopback}",
];

impl Default for HostTemplate {
    /// The name that the headless Service gives to a Pod, without the domain of the Kubernetes cluster, which
    /// every Pod's resolver adds.
    fn default() -> Self {
        Self("{member}.{service}.{namespace}.svc".to_owned())
    }
}

impl HostTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// It holds a placeholder that there is not, or none that tells members apart.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |at: &str| Error {
            template: text.to_owned(),
            at: at.to_owned(),
        };
        let mut rest = text.to_owned();
        for known in PLACEHOLDERS {
            rest = rest.replace(known, "");
        }
        if let Some(at) = rest.find(['{', '}']) {
            return Err(wrong(&rest[at..]));
        }
        if !text.contains("{member}") && !text.contains("{loopback}") {
            return Err(wrong("neither {member} nor {loopback}"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Where `member` is reached, and where it listens. `domain` is the cluster's `membership.domain`.
    pub fn host(&self, namespace: &str, cluster: &str, member: &str, domain: Option<&str>) -> Host {
        let local = self.0.contains("{loopback}");
        let address = loopback(namespace, member);
        let mut host = self
            .0
            .replace("{member}", member)
            .replace("{service}", &peer_service_name(cluster))
            .replace("{namespace}", namespace)
            .replace("{cluster}", cluster)
            .replace("{loopback}", &address);
        if let Some(domain) = domain.filter(|_| !local) {
            host.push('.');
            host.push_str(domain);
        }
        Host {
            // In a Pod the member has the network to itself.
            listen: if local { address } else { "0.0.0.0".to_owned() },
            name: host,
        }
    }
}

/// Members of all namespaces on one machine, told apart by a hash; 127.0.0.x is left to everybody else.
fn loopback(namespace: &str, member: &str) -> String {
    let hash = Sha256::digest(format!("{namespace}/{member}"));
    format!(
        "127.{}.{}.{}",
        1 + hash[0] % 254,
        hash[1],
        1 + hash[2] % 254
    )
}

/// Where a member is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// the name, or the address, that others use
    pub name: String,
    /// the address that the member listens on
    pub listen: String,
}

impl Host {
    /// For the other members; members are told apart by it.
    pub fn peer_url(&self) -> String {
        format!("http://{}:{PEER_PORT}", self.name)
    }

    /// For clients.
    pub fn client_url(&self) -> String {
        format!("http://{}:{CLIENT_PORT}", self.name)
    }

    /// For probes and metrics.
    pub fn metrics_url(&self) -> String {
        format!("http://{}:{METRICS_PORT}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_a_name_in_its_service() {
        let template = HostTemplate::default();
        assert_eq!(HostTemplate::parse(&template.0), Ok(template.clone()));
        let host = template.host("shop", "orders", "orders-4", None);
        assert_eq!(
            host.peer_url(),
            "http://orders-4.orders-peers.shop.svc:2380"
        );
        assert_eq!(host.listen, "0.0.0.0");
        let host = template.host("shop", "orders", "orders-4", Some("cluster.local"));
        assert_eq!(
            host.client_url(),
            "http://orders-4.orders-peers.shop.svc.cluster.local:2379"
        );
    }

    #[test]
    fn stand_ins_have_an_address_each() {
        let template = HostTemplate::parse("{loopback}").expect("a template");
        let host = template.host("shop", "orders", "orders-4", Some("cluster.local"));
        assert_eq!(host.name, host.listen);
        assert_eq!(host.name, loopback("shop", "orders-4"));
        assert_ne!(
            host.name,
            template.host("shop", "orders", "orders-5", None).name
        );
        assert_ne!(
            host.name,
            template.host("farm", "orders", "orders-4", None).name
        );
        assert!(!host.name.starts_with("127.0."));
    }

    #[test]
    fn a_wrong_template_says_what_is_wrong() {
        let text = |template: &str| {
            HostTemplate::parse(template)
                .expect_err("wrong")
                .to_string()
        };
        assert!(
            text("{pod}.x").contains("has \"{pod}.x\", expected {member}, "),
            "{}",
            text("{pod}.x")
        );
        assert!(text("{member").contains("{member"));
        assert!(text("{service}.svc").contains("neither {member} nor {loopback}"));
    }
}
