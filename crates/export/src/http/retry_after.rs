//! `Retry-After` (RFC 9110 §10.2.3): how long a destination asks to be left alone.

use std::time::{Duration, SystemTime};

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

/// The default of `MaxRetryInterval`: a wrong date must not silence an export for years.
const LONGEST: Duration = Duration::from_secs(3600);

/// The delay asked for with 429 or 503, at most one hour; `None` when there is none or it has gone by.
pub(super) fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    delay(headers.get(RETRY_AFTER)?.to_str().ok()?.trim(), SystemTime::now())
}

fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    let delay = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number too long for 64 bits is still a number of seconds.
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    (!delay.is_zero()).then_some(delay.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    #[test]
    fn a_delay_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None),
            ("0", None),
            ("7200", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 2044 08:49:37 GMT", Some(3600)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(delay(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn only_a_destination_that_is_busy_asks_for_a_delay() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        for (status, seconds) in [(503, Some(7)), (429, Some(7)), (500, None), (301, None)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                retry_after(status, &headers),
                seconds.map(Duration::from_secs),
                "{status}"
            );
        }
    }
}
