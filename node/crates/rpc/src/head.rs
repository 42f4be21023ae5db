//! What the headers of a gRPC call say, read as grpc-go reads them.

use std::time::Duration;

use api::Code;
use http::{HeaderMap, HeaderValue};

use crate::grpc::Status;

/// `TimeoutValue` of gRPC has at most eight digits, and one letter for the unit.
const TIMEOUT_BYTES_MAX: usize = 9;

/// What a content type says of its caller.
#[derive(Debug, PartialEq, Eq)]
pub enum ContentType {
    /// gRPC, to be answered under the same type
    Grpc(HeaderValue),
    /// meant for gRPC, and wrong
    Bad,
    /// plain HTTP
    Other,
}

/// `application/grpc`, alone or with a subtype behind `+` or `;`.
pub fn content_type(headers: &HeaderMap) -> ContentType {
    const BASE: &str = "application/grpc";
    let Some(given) = headers.get(http::header::CONTENT_TYPE) else {
        return ContentType::Other;
    };
    let text = given.to_str().unwrap_or_default().to_ascii_lowercase();
    let Some(rest) = text.strip_prefix(BASE) else {
        return ContentType::Other;
    };
    match rest.as_bytes().first() {
        None => ContentType::Grpc(HeaderValue::from_static(BASE)),
        Some(b'+' | b';') if rest.len() == 1 => ContentType::Grpc(HeaderValue::from_static(BASE)),
        Some(b'+' | b';') => HeaderValue::from_str(&format!("{BASE}+{}", &rest[1..]))
            .map_or(ContentType::Bad, ContentType::Grpc),
        Some(_) => ContentType::Bad,
    }
}

/// Service and method of `/service/method`; the service may have slashes of its own.
pub fn names(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/').unwrap_or(path).rsplit_once('/')
}

/// As grpc-go answers a path without two names.
pub fn malformed_path(path: &str) -> Status {
    Status::new(
        Code::Unimplemented,
        format!("malformed method name: {path:?}"),
    )
}

/// `grpc-timeout`: how long the caller waits.
///
/// # Errors
///
/// grpc-go's text for a value that cannot be read; it goes with HTTP's 400.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let malformed = |why: String| {
        Status::new(
            Code::Internal,
            format!("malformed grpc-timeout: transport: {why}"),
        )
    };
    if text.len() < 2 {
        return Err(malformed(format!("timeout string is too short: {text:?}")));
    }
    if text.len() > TIMEOUT_BYTES_MAX {
        return Err(malformed(format!("timeout string is too long: {text:?}")));
    }
    let (digits, unit) = text.split_at(text.len() - 1);
    let nanos: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1000,
        "n" => 1,
        _ => {
            return Err(malformed(format!(
                "timeout unit is not recognized: {text:?}"
            )));
        }
    };
    let count: u64 = digits.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {digits:?}: invalid syntax");
        Status::new(Code::Internal, format!("malformed grpc-timeout: {why}"))
    })?;
    Ok(Some(Duration::from_nanos(count.saturating_mul(nanos))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        headers
    }

    #[test]
    fn timeouts_have_eight_digits_and_a_unit() {
        let of = |value: &str| timeout(&headers("grpc-timeout", value));
        assert_eq!(of("10S"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(of("99999999n"), Ok(Some(Duration::from_nanos(99_999_999))));
        assert_eq!(of("99999999H"), Ok(Some(Duration::from_nanos(u64::MAX))));
        for bad in ["", "S", "100000000n", "10x", "xxS", "-1S"] {
            let error = of(bad).expect_err(bad);
            assert!(
                error.message.starts_with("malformed grpc-timeout: "),
                "{error:?}"
            );
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_subtype_is_sent_back_and_a_longer_word_is_wrong() {
        let of = |value: &str| content_type(&headers("content-type", value));
        let grpc = |value: &'static str| ContentType::Grpc(HeaderValue::from_static(value));
        assert_eq!(of("application/grpc"), grpc("application/grpc"));
        assert_eq!(of("application/gRPC+Proto"), grpc("application/grpc+proto"));
        assert_eq!(of("application/grpc;x"), grpc("application/grpc+x"));
        assert_eq!(of("application/grpcx"), ContentType::Bad);
        assert_eq!(of("application/json"), ContentType::Other);
    }

    #[test]
    fn the_method_is_the_last_part_of_a_path() {
        assert_eq!(names("/a/b/c"), Some(("a/b", "c")));
        assert_eq!(names("/a"), None);
        assert_eq!(names("//"), Some(("", "")));
    }
}
