//! Maintenance windows (rule 9) in a device's local time: when one is open, and when the next one opens. Called by the
//! ladder; read from the configuration file. Pure: the time and the device's distance from UTC come in as arguments.
//!
//! The distance is the one that the device reported last. Where its clock has just been put forward or back, the
//! windows follow with its next report.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike as _, Duration, NaiveDate, Utc, Weekday};
use serde::{Deserialize, Serialize};

const DAY: u16 = 24 * 60;

/// Days looked at before and after a time: a week, and the day that a window may reach into.
const HORIZON: i64 = 8;

const WEEK: [Weekday; 7] =
    [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

/// One line of the policy, such as `mon-fri 22:00-05:00`: the days on which it opens, and its times. It ends on the next
/// day where its end is before its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// From Monday. INVARIANT: at least one.
    days: [bool; 7],
    /// Minutes after midnight, below 24:00.
    from: u16,
    /// Minutes after midnight, up to 24:00, never equal to `from`.
    to: u16,
}

/// Why a text is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error(
        "{0:?} is no window: write days and times of the device's clock, as in \"mon-fri 22:00-05:00\" or \
         \"sat,sun 00:00-24:00\""
    )]
    Malformed(String),
    #[error("the window {0:?} ends when it begins: for whole days write \"daily 00:00-24:00\"")]
    Empty(String),
}

/// What a device's windows say at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// There are none: always open.
    Unbound,
    /// Open until, exclusively.
    Open {
        until: DateTime<Utc>,
    },
    Closed {
        opens: DateTime<Utc>,
    },
}

/// Looks at `windows` on a device whose clock is `utc_offset_minutes` ahead of UTC.
#[must_use]
pub fn look(windows: &[Window], utc_offset_minutes: i32, now: DateTime<Utc>) -> Look {
    if windows.is_empty() {
        return Look::Unbound;
    }
    let openings = openings(windows, utc_offset_minutes, now);
    match openings.into_iter().find(|(_, until)| *until > now) {
        Some((from, until)) if from <= now => Look::Open { until },
        Some((opens, _)) => Look::Closed { opens },
        // Only at the end of time.
        None => Look::Closed { opens: DateTime::<Utc>::MAX_UTC },
    }
}

/// When the window opened that is or was the last one at a time.
#[must_use]
pub fn last_opening(windows: &[Window], utc_offset_minutes: i32, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    openings(windows, utc_offset_minutes, at).into_iter().map(|(from, _)| from).filter(|from| *from <= at).max()
}

/// The openings around a time, in order; those that touch or overlap are one.
fn openings(windows: &[Window], utc_offset_minutes: i32, at: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let ahead = Duration::minutes(utc_offset_minutes.into());
    let Some(today) = at.checked_add_signed(ahead).map(|local| local.date_naive()) else {
        return Vec::new();
    };
    let days = (-HORIZON..=HORIZON).filter_map(|days| today.checked_add_signed(Duration::days(days)));
    let mut all: Vec<_> = days
        .flat_map(|day| windows.iter().filter_map(move |window| window.on(day)))
        .filter_map(|(from, until)| Some((from.checked_sub_signed(ahead)?, until.checked_sub_signed(ahead)?)))
        .collect();
    all.sort_unstable();
    let mut merged: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::with_capacity(all.len());
    for (from, until) in all {
        match merged.last_mut().filter(|before| from <= before.1) {
            Some(before) => before.1 = before.1.max(until),
            None => merged.push((from, until)),
        }
    }
    merged
}

impl Window {
    /// Beginning and end where it opens on this day, as if the device's clock showed UTC.
    fn on(&self, day: NaiveDate) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let index = usize::try_from(day.weekday().num_days_from_monday()).ok()?;
        if !*self.days.get(index)? {
            return None;
        }
        let midnight = day.and_hms_opt(0, 0, 0)?.and_utc();
        let to = if self.to <= self.from { self.to + DAY } else { self.to };
        let at = |minutes: u16| midnight.checked_add_signed(Duration::minutes(minutes.into()));
        Some((at(self.from)?, at(to)?))
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let bad = || WindowError::Malformed(text.to_owned());
        let (days, times) = text.split_once(' ').ok_or_else(bad)?;
        let (from, to) = times.split_once('-').ok_or_else(bad)?;
        let days = days_of(days).ok_or_else(bad)?;
        let from = minutes(from).filter(|from| *from < DAY).ok_or_else(bad)?;
        let to = minutes(to).ok_or_else(bad)?;
        if from == to {
            return Err(WindowError::Empty(text.to_owned()));
        }
        Ok(Self { days, from, to })
    }
}

/// `daily`, or names and spans of days between commas.
fn days_of(text: &str) -> Option<[bool; 7]> {
    if text == "daily" {
        return Some([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day_of(first)?, day_of(last)?);
        // Over the end of the week too, as in `fri-mon`.
        let length = (last + 7 - first) % 7;
        for day in first..=first + length {
            *days.get_mut(day % 7)? = true;
        }
    }
    Some(days)
}

fn day_of(name: &str) -> Option<usize> {
    WEEK.iter().position(|day| name == short(*day))
}

const fn short(day: Weekday) -> &'static str {
    match day {
        Weekday::Mon => "mon",
        Weekday::Tue => "tue",
        Weekday::Wed => "wed",
        Weekday::Thu => "thu",
        Weekday::Fri => "fri",
        Weekday::Sat => "sat",
        Weekday::Sun => "sun",
    }
}

/// `HH:MM` up to 24:00.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes).filter(|minutes| *minutes < 60)?);
    Some(hours * 60 + minutes).filter(|all| *all <= DAY)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<_> =
            WEEK.into_iter().zip(self.days).filter(|(_, opens)| *opens).map(|(day, _)| short(day)).collect();
        let days = if days.len() == WEEK.len() { "daily".to_owned() } else { days.join(",") };
        let (from, to) = (self.from, self.to);
        write!(f, "{days} {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests;
