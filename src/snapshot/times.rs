//! The times of scheduled snapshots: an interval, or the five fields of cron in UTC.

use crate::duration;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use std::cmp::Ordering;
use std::time::Duration;
use thiserror::Error;
use time::{Date, Month, OffsetDateTime, Time};

/// The shortest interval. The time of a file is in its name, in seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// A text that names no times.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum TimesError {
    #[error("it is neither an interval such as 1h nor the five fields of cron such as \"0 3 * * *\"")]
    Neither,
    #[error("the shortest interval is {SHORTEST:?}")]
    Short,
    #[error("cron does not know it: {0}")]
    Cron(String),
    #[error("no such time is to come")]
    Never,
}

/// When snapshots are due.
#[derive(Clone, Debug)]
pub(crate) enum Times {
    /// So long after the last one.
    Every(Duration),
    /// At the minutes of a line of cron's.
    Cron(Box<Cron>),
}

impl Times {
    /// Reads the value of the flag.
    ///
    /// # Errors
    /// [`TimesError`].
    pub(crate) fn parse(text: &str) -> Result<Times, TimesError> {
        if let Ok(interval) = duration::parse(text) {
            return if interval < SHORTEST { Err(TimesError::Short) } else { Ok(Times::Every(interval)) };
        }
        if !text.contains(' ') && !text.starts_with('@') {
            return Err(TimesError::Neither);
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| TimesError::Cron(error.to_string()))?;
        let times = Times::Cron(Box::new(cron));
        times.after(None, OffsetDateTime::now_utc()).ok_or(TimesError::Never)?;
        Ok(times)
    }

    /// The time at which the next one is due, with the last one at `last`. Cron's are behind `now`.
    pub(crate) fn after(&self, last: Option<OffsetDateTime>, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match self {
            // The clock may have been set back since.
            Times::Every(interval) => {
                last.map_or(Some(now), |last| last.min(now).checked_add((*interval).try_into().ok()?))
            }
            Times::Cron(cron) => cron.find_next_occurrence(&Utc(now), false).ok().map(|Utc(time)| time),
        }
    }
}

/// A time in UTC, for cron.
#[derive(Clone)]
struct Utc(OffsetDateTime);

impl CronDateTime for Utc {
    fn to_civil(&self) -> CivilDateTime {
        let (date, time) = (self.0.date(), self.0.time());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(date.year(), u8::from(date.month()).into(), date.day().into()),
            CivilTime::from_parts_unchecked(time.hour().into(), time.minute().into(), time.second().into()),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().number_days_from_sunday().into())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        // Each part is in its range, so it fits.
        let month = Month::try_from(civil.month() as u8).map_err(|_| CronError::InvalidDate)?;
        let date = Date::from_calendar_date(civil.year(), month, civil.day() as u8);
        let time = Time::from_hms(civil.hour() as u8, civil.minute() as u8, civil.second() as u8);
        let date = date.map_err(|_| CronError::InvalidDate)?;
        let time = time.map_err(|_| CronError::InvalidTime)?;
        Ok(Resolution::Single(Utc(date.with_time(time).assume_utc())))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(time::Duration::seconds(seconds)).map(Utc)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
    }

    fn after(text: &str, last: Option<i64>, now: i64) -> Option<i64> {
        let next = Times::parse(text).expect(text).after(last.map(at), at(now));
        next.map(OffsetDateTime::unix_timestamp)
    }

    #[test]
    fn an_interval_counts_from_the_last_snapshot() {
        assert_eq!(after("1h", None, 5000), Some(5000));
        assert_eq!(after("1h", Some(4000), 5000), Some(7600));
        assert_eq!(after("1h30m", Some(100), 50_000), Some(5500));
        // The clock was set back.
        assert_eq!(after("1h", Some(9000), 5000), Some(8600));
    }

    #[test]
    fn cron_s_fields_are_in_utc() {
        const DAY: i64 = 86_400;
        // 2026-02-28T23:59:30Z, a Saturday.
        let now = 1_772_323_170;
        let midnight = now + 30;
        for (text, next) in [
            ("* * * * *", midnight),
            ("*/15 * * * *", midnight),
            ("30 3 * * *", midnight + 3 * 3600 + 1800),
            ("0 0 1 * *", midnight),
            ("0 0 * * 1", midnight + DAY),
            ("0 0 * * mon", midnight + DAY),
            // One of both days is enough.
            ("0 0 15 * 1", midnight + DAY),
            ("0 12 29 2 *", midnight + 730 * DAY + DAY / 2),
            ("@hourly", midnight),
        ] {
            assert_eq!(after(text, Some(now), now), Some(next), "{text}");
        }
        assert_eq!(after("* * * * *", None, midnight), Some(midnight + 60), "the time itself has passed");
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, error) in [
            ("hourly", TimesError::Neither),
            ("5", TimesError::Neither),
            ("-1h", TimesError::Short),
            ("0s", TimesError::Short),
            ("999ms", TimesError::Short),
            ("0 0 30 2 *", TimesError::Never),
        ] {
            assert_eq!(Times::parse(text).expect_err(text), error, "{text}");
        }
        for text in ["0 0 * *", "0 0 0 * * *", "61 * * * *", "a b c d e", "@often"] {
            assert!(matches!(Times::parse(text), Err(TimesError::Cron(_))), "{text}");
        }
    }
}
