//! Services: one that names members, one for clients.

use crd::QuorateCluster;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::names::{
    CLIENT_PORT, METRICS_PORT, PEER_PORT, client_service_name, cluster_labels, peer_service_name,
    selector,
};
use crate::owner::owned_by_cluster;

/// The headless Service that gives each member its name, ready or not: a member that starts must find the others
/// before any of them is ready.
pub fn peer_service(cluster: &QuorateCluster) -> Service {
    let mut service = service(cluster, &peer_service_name(&cluster.name_any()));
    service.spec = Some(ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        selector: Some(selector(&cluster.name_any())),
        ports: Some(vec![
            port("peer", PEER_PORT),
            port("client", CLIENT_PORT),
            port("metrics", METRICS_PORT),
        ]),
        ..ServiceSpec::default()
    });
    service
}

/// The Service for clients: members that are ready, so voters that hear a leader.
pub fn client_service(cluster: &QuorateCluster) -> Service {
    let mut service = service(cluster, &client_service_name(&cluster.name_any()));
    service.spec = Some(ServiceSpec {
        selector: Some(selector(&cluster.name_any())),
        ports: Some(vec![port("client", CLIENT_PORT)]),
        ..ServiceSpec::default()
    });
    service
}

fn service(cluster: &QuorateCluster, name: &str) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: cluster.namespace(),
            labels: Some(cluster_labels(&cluster.name_any())),
            owner_references: Some(owned_by_cluster(cluster)),
            ..ObjectMeta::default()
        },
        ..Service::default()
    }
}

fn port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
