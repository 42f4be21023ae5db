//! Times as Go writes them into JSON: RFC 3339 in UTC with nanoseconds.

use std::time::Duration;

const DAY_S: u64 = 86_400;

/// A time since 1970 as `2026-11-23T19:57:03.123456789Z`.
pub(crate) fn rfc3339(unix: Duration) -> String {
    let (days, second) = (unix.as_secs() / DAY_S, unix.as_secs() % DAY_S);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let nanos = unix.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Reads what [`rfc3339`] writes, and what Go writes in any time zone. Times before 1970 and
/// after 9999 are not read.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok()).flatten()
    };
    let mark = |at: usize, byte: u8| (text.as_bytes().get(at) == Some(&byte)).then_some(());
    mark(4, b'-').and(mark(7, b'-')).and(mark(10, b'T'))?;
    mark(13, b':').and(mark(16, b':'))?;
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let sane = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sane || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        nanos = fraction[..digits].parse::<u32>().ok()? * 10_u32.pow(9 - digits as u32);
        rest = &fraction[digits..];
    }
    let local = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second;
    let utc = match rest.as_bytes() {
        [b'Z'] => local,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()) =>
        {
            let two = |tens: &u8, ones: &u8| u64::from(tens - b'0') * 10 + u64::from(ones - b'0');
            let offset = two(h1, h2) * 3600 + two(m1, m2) * 60;
            if *sign == b'+' {
                local.checked_sub(offset)?
            } else {
                local + offset
            }
        }
        _ => return None,
    };
    Some(Duration::new(utc, nanos))
}

/// Days since 1970 of a date. Years are counted from March, so that the leap day is the last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + leap_days + day_of_year - 719_468
}

/// The date of a number of days since 1970: the reverse of [`days`], by search.
fn date(count: u64) -> (u64, u64, u64) {
    let mut year = 1970 + count / 366;
    while days(year + 1, 1, 1) <= count {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days(year, month + 1, 1) <= count {
        month += 1;
    }
    (year, month, count - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_210_096, "2024-02-29T12:34:56.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
            assert_eq!(parse_rfc3339(text), Some(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..60_000 {
            let time = Duration::new(day * DAY_S + day % DAY_S, 7);
            assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }
    }

    #[test]
    fn zones_and_fractions_as_go_writes_them() {
        let at = parse_rfc3339("2024-02-29T12:34:56Z").unwrap();
        assert_eq!(parse_rfc3339("2024-02-29T14:34:56+02:00"), Some(at));
        assert_eq!(
            parse_rfc3339("2024-02-29T07:04:56.5-05:30"),
            Some(at + Duration::from_millis(500))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "now",
            "2024-02-29",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.0000000001Z",
            "2024-01-01T00:00:00+0200",
            "２０２４-01-01T00:00:00Z",
            "1970-01-01T00:00:00+23:00",
            "+024-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad:?}");
        }
    }
}
