//! Plain HTTP on the client port: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`; on a
//! metrics port the same without `/version`.
//! Answers are etcd's, byte for byte (etcd `etcdhttp/health.go`, `version.go`).

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::door::Door;
use crate::grpc::ReplyBody;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text format, as its own Go library names it.
const METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// One check behind `/livez` and `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, door: &Door) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                if door
                    .member
                    .state()
                    .alarms
                    .is_raised(api::etcdserverpb::AlarmType::Corrupt)
                {
                    return Err("alarm activated: CORRUPT".into());
                }
                Ok(())
            }
            // A read of our own state needs nothing but a process that answers.
            Self::SerializableRead => Ok(()),
            Self::LinearizableRead => door
                .lane
                .linearizable_read()
                .await
                .map_err(|error| error.to_string()),
            Self::NonLearner => {
                if door.member.is_learner() {
                    return Err("not supported for learner".into());
                }
                Ok(())
            }
        }
    }
}

/// Answers a request that is not gRPC, for whom the door lets in (etcd `accessController`).
pub async fn answer<B>(door: &Door, request: Request<B>) -> Response<ReplyBody> {
    let listed = |list: &[String], name: &str| {
        list.is_empty() || list.iter().any(|listed| listed == "*" || listed == name)
    };
    let host = host_name(&request);
    if !host.is_empty() && !listed(&door.config.host_whitelist, &host) {
        tracing::warn!(
            host,
            "rejecting HTTP request to prevent DNS rebinding attacks"
        );
        return error(StatusCode::MISDIRECTED_REQUEST, &unknown_host(&host));
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = if listed(&door.config.cors, "*") {
        Some(HeaderValue::from_static("*"))
    } else {
        origin.filter(|origin| listed(&door.config.cors, origin.to_str().unwrap_or_default()))
    };
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(ReplyBody::Full(Some(Bytes::new())))
    } else if request.uri().path() == "/version" {
        version(door, &request)
    } else {
        route(door, request).await
    };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let allowed = HeaderValue::from_static("accept, content-type, authorization");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// Answers on a metrics port, where nobody is turned away by name (etcd `serveMetrics`).
pub async fn answer_metrics<B>(door: &Door, request: Request<B>) -> Response<ReplyBody> {
    route(door, request).await
}

/// The name that the caller knows us by, without a port.
fn host_name<B>(request: &Request<B>) -> String {
    let header = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = header.or_else(|| request.uri().authority().map(|host| host.as_str()));
    let authority = authority.unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_matches(['[', ']']).to_owned()
}

fn unknown_host(host: &str) -> String {
    format!(
        "the Host header {host:?} is not one of --host-whitelist; call this member by a listed \
         name, add the name to the list, or use TLS (this protects against DNS rebinding, \
         CVE-2018-5702)"
    )
}

fn version<B>(door: &Door, request: &Request<B>) -> Response<ReplyBody> {
    if request.method() != Method::GET {
        return method_not_allowed();
    }
    let mut response = plain(StatusCode::OK, door.member.version_json());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Metrics and health.
async fn route<B>(door: &Door, request: Request<B>) -> Response<ReplyBody> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    let get = request.method() == Method::GET;
    match path {
        "/health" | "/livez" | "/readyz" if !get => method_not_allowed(),
        "/health" => health(door, query).await,
        "/metrics" => {
            let mut text = server::metrics::Text::default();
            crate::stats::write(&mut text);
            let mut text = door.member.metrics_text() + &text.finish();
            if door.config.extensive_metrics {
                crate::stats::write_took(&mut text);
            }
            let mut response = plain(StatusCode::OK, text);
            response.headers_mut().insert(header::CONTENT_TYPE, METRICS);
            response
        }
        "/livez" => checks(door, "livez", LIVEZ, query).await,
        "/readyz" => checks(door, "readyz", READYZ, query).await,
        _ => {
            let single = [("livez", LIVEZ), ("readyz", READYZ)]
                .iter()
                .find_map(|(root, all)| {
                    let name = path
                        .strip_prefix('/')?
                        .strip_prefix(root)?
                        .strip_prefix('/')?;
                    Some((*root, all.iter().find(|check| check.name() == name)?))
                });
            match single {
                Some(_) if !get => method_not_allowed(),
                Some((root, check)) => checks(door, root, &[*check], query).await,
                None => error(StatusCode::NOT_FOUND, "404 page not found"),
            }
        }
    }
}

fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

async fn health(door: &Door, query: &str) -> Response<ReplyBody> {
    let serializable = values(query, "serializable").next() == Some("true");
    let excluded: Vec<&str> = values(query, "exclude").filter(|v| !v.is_empty()).collect();
    let reason = health_failure(door, serializable, &excluded).await;
    let healthy = reason.is_none();
    door.member.count_health(healthy);
    let body = serde_json::json!({
        "health": if healthy { "true" } else { "false" },
        "reason": reason.unwrap_or_default(),
    })
    .to_string();
    if healthy {
        plain(StatusCode::OK, body)
    } else {
        tracing::warn!(output = body, "/health error");
        error(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

async fn health_failure(door: &Door, serializable: bool, excluded: &[&str]) -> Option<String> {
    for alarm in door.member.state().alarms.get(0) {
        let name = alarm.alarm().as_str_name();
        if !excluded.contains(&name) {
            return Some(match name {
                "NOSPACE" | "CORRUPT" => format!("ALARM {name}"),
                _ => "ALARM UNKNOWN".to_owned(),
            });
        }
    }
    if !serializable {
        if door.member.leader() == 0 {
            return Some("RAFT NO LEADER".to_owned());
        }
        if let Err(error) = door.lane.linearizable_read().await {
            return Some(format!("RANGE ERROR:{error}"));
        }
    }
    None
}

async fn checks(
    door: &Door,
    root: &'static str,
    all: &[Check],
    query: &str,
) -> Response<ReplyBody> {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    let verbose = values(query, "verbose").next().is_some();
    let mut lines = String::new();
    let mut failed = false;
    for check in all.iter().filter(|check| !excluded.contains(&check.name())) {
        let result = check.run(door).await;
        door.member
            .shared
            .counters
            .stats
            .count_check(root, check.name(), result.is_ok());
        match result {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name())),
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-]{} failed: {why}\n", check.name()));
            }
        }
    }
    if failed {
        tracing::error!(reason = lines, "health check error");
        return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let body = if verbose {
        format!("{lines}ok\n")
    } else {
        "ok\n".to_owned()
    };
    let mut response = plain(StatusCode::OK, body);
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

fn plain(status: StatusCode, body: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Full(Some(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, PLAIN);
    response
}

/// Go's `http.Error`: the text, a newline, and `nosniff`.
fn error(status: StatusCode, text: &str) -> Response<ReplyBody> {
    let mut response = plain(status, format!("{text}\n"));
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

fn method_not_allowed() -> Response<ReplyBody> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_without_its_port() {
        let of = |host: &str| {
            let request = Request::builder().header("host", host).body(());
            host_name(&request.expect("a request"))
        };
        assert_eq!(of("example.com:2379"), "example.com");
        assert_eq!(of("example.com"), "example.com");
        assert_eq!(of("[::1]:2379"), "::1");
        assert_eq!(of(""), "");
    }

    /// docs/known-differences.md: the remedy is ours to word.
    #[test]
    fn an_unknown_host_hears_the_flag_that_would_let_it_in() {
        let text = unknown_host("evil.example");
        assert!(text.contains("\"evil.example\""), "{text}");
        assert!(text.contains("--host-whitelist"), "{text}");
    }
}
