//! Values that are text in an object and something else in meaning.
//!
//! They keep the text as it came, so that writing an object back changes nothing. Its meaning is asked for,
//! and may be an error: an object of another version may hold what this one does not know.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A value's text that has no meaning here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// neither `500ms` nor `1m30s`
    Duration(String),
    /// not a Kubernetes quantity, or more than 64 bits of bytes
    Quantity(String),
    /// not 16 hexadecimal digits
    MemberId(String),
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(text) => write!(
                to,
                "{text:?} is no duration, expected whole numbers with ms, s, m or h, such as 500ms or 1m30s"
            ),
            Self::Quantity(text) => write!(
                to,
                "{text:?} is no number of bytes, expected a quantity such as 20Gi"
            ),
            Self::MemberId(text) => write!(to, "{text:?} is no ID, expected 16 hexadecimal digits"),
        }
    }
}

impl std::error::Error for Error {}

/// A span of time such as `500ms`, `10m` or `1m30s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl DurationText {
    /// The pattern in the schema. CEL's `duration()` reads everything that it lets through.
    pub const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h))+$";

    /// Characters in it: three numbers with their units are enough for everyone.
    pub const LENGTH_MAX: u32 = 32;

    /// In milliseconds.
    ///
    /// # Errors
    /// The text is no such duration, or more than 64 bits of milliseconds.
    pub fn as_ms(&self) -> Result<u64, Error> {
        let wrong = || Error::Duration(self.0.clone());
        let mut rest = self.0.as_str();
        let mut sum: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let (unit, ms) = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))
                .ok_or_else(wrong)?;
            rest = &rest[unit.len()..];
            sum = number
                .checked_mul(ms)
                .and_then(|ms| sum.checked_add(ms))
                .ok_or_else(wrong)?;
        }
        Ok(sum)
    }
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": Self::PATTERN, "maxLength": Self::LENGTH_MAX})
    }
}

/// A number of bytes as Kubernetes writes it: `20Gi`, `500M`, `1073741824`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QuantityText(pub String);

impl QuantityText {
    /// The pattern in the schema: whole numbers only, so that there are no half bytes.
    pub const PATTERN: &str = "^[0-9]{1,18}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

    /// Characters in it.
    pub const LENGTH_MAX: u32 = 20;

    /// In bytes.
    ///
    /// # Errors
    /// The text is no such quantity, or more than an `i64` of bytes.
    pub fn as_bytes(&self) -> Result<i64, Error> {
        let wrong = || Error::Quantity(self.0.clone());
        let unit_at = self
            .0
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(unit_at);
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let (base, power): (i64, u32) = match unit {
            "" => (1, 0),
            "k" => (1000, 1),
            "M" => (1000, 2),
            "G" => (1000, 3),
            "T" => (1000, 4),
            "P" => (1000, 5),
            "Ki" => (1024, 1),
            "Mi" => (1024, 2),
            "Gi" => (1024, 3),
            "Ti" => (1024, 4),
            "Pi" => (1024, 5),
            _ => return Err(wrong()),
        };
        number.checked_mul(base.pow(power)).ok_or_else(wrong)
    }
}

impl From<&str> for QuantityText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for QuantityText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "QuantityText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": Self::PATTERN, "maxLength": Self::LENGTH_MAX})
    }
}

/// The ID of a member or of a cluster: 16 hexadecimal digits, with leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberIdText(pub String);

impl MemberIdText {
    /// The pattern in the schema.
    pub const PATTERN: &str = "^[0-9a-f]{16}$";

    /// The number.
    ///
    /// # Errors
    /// The text is not 16 hexadecimal digits.
    pub fn number(&self) -> Result<u64, Error> {
        let wrong = || Error::MemberId(self.0.clone());
        if self.0.len() != 16 || !self.0.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(&self.0, 16).map_err(|_| wrong())
    }
}

impl From<u64> for MemberIdText {
    fn from(id: u64) -> Self {
        Self(format!("{id:016x}"))
    }
}

impl fmt::Display for MemberIdText {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl JsonSchema for MemberIdText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MemberIdText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": Self::PATTERN, "maxLength": 16})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let ms = |text: &str| DurationText::from(text).as_ms();
        assert_eq!(ms("100ms"), Ok(100));
        assert_eq!(ms("10m"), Ok(600_000));
        assert_eq!(ms("1h30m1s5ms"), Ok(5_401_005));
        assert_eq!(ms("0s"), Ok(0));
        for wrong in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1d",
            "1sm",
            "99999999999999999999h",
            "9999999999999999h",
        ] {
            assert_eq!(ms(wrong), Err(Error::Duration(wrong.to_owned())));
        }
    }

    #[test]
    fn quantities_are_bytes() {
        let bytes = |text: &str| QuantityText::from(text).as_bytes();
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("20Gi"), Ok(20 << 30));
        assert_eq!(bytes("500M"), Ok(500_000_000));
        assert_eq!(bytes("7Pi"), Ok(7 << 50));
        for wrong in ["", "Gi", "1.5Gi", "-1", "1E", "1gi", "999999999999Pi"] {
            assert_eq!(bytes(wrong), Err(Error::Quantity(wrong.to_owned())));
        }
    }

    #[test]
    fn ids_keep_their_leading_zeros() {
        assert_eq!(MemberIdText::from(0xabc).0, "0000000000000abc");
        assert_eq!(MemberIdText::from(u64::MAX).number(), Ok(u64::MAX));
        for wrong in ["", "abc", "+000000000000abc", "g000000000000abc"] {
            let id = MemberIdText(wrong.to_owned());
            assert_eq!(id.number(), Err(Error::MemberId(wrong.to_owned())));
        }
    }
}
