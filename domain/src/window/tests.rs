//! Windows as people write them, and what they say at the edges.

use proptest::prelude::*;

use super::*;

fn windows(lines: &[&str]) -> Vec<Window> {
    lines.iter().map(|line| line.parse().expect("a window")).collect()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

#[test]
fn windows_print_as_they_are_read() {
    for (text, printed) in [
        ("mon-fri 22:00-05:00", "mon,tue,wed,thu,fri 22:00-05:00"),
        ("sat,sun 00:00-24:00", "sat,sun 00:00-24:00"),
        ("fri-mon 03:30-04:00", "mon,fri,sat,sun 03:30-04:00"),
        ("mon-sun 01:00-02:00", "daily 01:00-02:00"),
        ("daily 01:00-02:00", "daily 01:00-02:00"),
    ] {
        let window: Window = text.parse().expect("a window");
        assert_eq!(window.to_string(), printed);
        assert_eq!(printed.parse(), Ok(window));
    }
}

#[test]
fn what_is_no_window_is_refused_with_an_example() {
    for text in [
        "",
        "22:00-05:00",
        "mon 22:00",
        "mon 22-05",
        "mon 22:00-25:00",
        "mon 24:00-25:00",
        "mon 24:00-01:00",
        "mon 22:60-23:00",
        "mon 2:00-3:00",
        "mon +2:00-03:00",
        "Mon 22:00-05:00",
        "moon 22:00-05:00",
        "mon, 22:00-05:00",
        "mon  22:00-05:00",
    ] {
        let refused = text.parse::<Window>().expect_err(text).to_string();
        assert!(refused.contains(&format!("{text:?}")) && refused.contains("mon-fri 22:00-05:00"), "{refused}");
    }
    let refused = "mon 22:00-22:00".parse::<Window>().expect_err("no length").to_string();
    assert!(refused.contains("daily 00:00-24:00"), "{refused}");
}

#[test]
fn none_is_always_open() {
    assert_eq!(look(&[], 60, at("2026-09-21T12:00:00Z")), Look::Unbound);
    assert_eq!(last_opening(&[], 60, at("2026-09-21T12:00:00Z")), None);
}

/// 2026-09-21 is a Monday.
#[test]
fn edges_in_local_time() {
    let nights = windows(&["mon 22:00-05:00"]);
    for (offset, now, expected) in [
        // In UTC: a minute before, the first moment, the last, and the end, which is outside.
        (0, "2026-09-21T21:59:00Z", Look::Closed { opens: at("2026-09-21T22:00:00Z") }),
        (0, "2026-09-21T22:00:00Z", Look::Open { until: at("2026-09-22T05:00:00Z") }),
        (0, "2026-09-22T04:59:59Z", Look::Open { until: at("2026-09-22T05:00:00Z") }),
        (0, "2026-09-22T05:00:00Z", Look::Closed { opens: at("2026-09-28T22:00:00Z") }),
        // Ahead of UTC: Monday 22:00 comes earlier, here still on Monday morning of UTC.
        (14 * 60, "2026-09-21T07:59:00Z", Look::Closed { opens: at("2026-09-21T08:00:00Z") }),
        (14 * 60, "2026-09-21T08:00:00Z", Look::Open { until: at("2026-09-21T15:00:00Z") }),
        // Behind UTC: Monday 22:00 is Tuesday in UTC.
        (-8 * 60, "2026-09-22T05:59:00Z", Look::Closed { opens: at("2026-09-22T06:00:00Z") }),
        (-8 * 60, "2026-09-22T12:59:00Z", Look::Open { until: at("2026-09-22T13:00:00Z") }),
        // Half hours, either side.
        (330, "2026-09-21T16:30:00Z", Look::Open { until: at("2026-09-21T23:30:00Z") }),
        (-210, "2026-09-22T01:29:00Z", Look::Closed { opens: at("2026-09-22T01:30:00Z") }),
    ] {
        assert_eq!(look(&nights, offset, at(now)), expected, "{offset} {now}");
    }
}

#[test]
fn windows_that_touch_or_overlap_are_one() {
    let weekend = windows(&["sat 00:00-24:00", "sun 00:00-20:00", "sat,sun 23:00-01:00"]);
    let open = look(&weekend, 0, at("2026-09-26T12:00:00Z"));
    assert_eq!(open, Look::Open { until: at("2026-09-27T20:00:00Z") });
    assert_eq!(last_opening(&weekend, 0, at("2026-09-27T12:00:00Z")), Some(at("2026-09-26T00:00:00Z")));
    assert_eq!(last_opening(&weekend, 0, at("2026-09-27T21:00:00Z")), Some(at("2026-09-26T00:00:00Z")));
    assert_eq!(last_opening(&weekend, 0, at("2026-09-28T02:00:00Z")), Some(at("2026-09-27T23:00:00Z")));
    let always = windows(&["daily 00:00-24:00"]);
    assert!(matches!(look(&always, 0, at("2026-09-26T00:00:00Z")), Look::Open { .. }));
}

#[test]
fn the_ends_of_time_are_no_trouble() {
    let nights = windows(&["daily 22:00-05:00"]);
    for now in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
        for offset in [i32::MIN, -60, 60, i32::MAX] {
            let _ = look(&nights, offset, now);
        }
    }
}

fn any_window() -> impl Strategy<Value = Window> {
    (1_u8..128, 0..DAY, 1..=DAY).prop_filter_map("no length", |(days, from, to)| {
        let days = std::array::from_fn(|day| days & (1 << day) != 0);
        (from != to).then_some(Window { days, from, to })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Minute by minute on the device's own clock, by the plain meaning of the line.
    #[test]
    fn a_window_is_open_when_the_clock_on_the_wall_says_so(
        windows in proptest::collection::vec(any_window(), 1..4),
        offset in -12 * 60..=14 * 60_i32,
        minute in 0_i64..60 * 24 * 30,
    ) {
        let now = at("2026-09-01T00:00:00Z") + Duration::minutes(minute);
        let local = now + Duration::minutes(offset.into());
        let today = local.weekday().num_days_from_monday() as usize;
        let clock = u16::try_from(local.signed_duration_since(local.date_naive().and_hms_opt(0, 0, 0).expect("midnight").and_utc()).num_minutes()).expect("a day");
        let open = windows.iter().any(|window| {
            if window.from < window.to {
                window.days[today] && (window.from..window.to).contains(&clock)
            } else {
                window.days[today] && clock >= window.from || window.days[(today + 6) % 7] && clock < window.to
            }
        });
        match look(&windows, offset, now) {
            Look::Unbound => prop_assert!(false),
            Look::Open { until } => {
                prop_assert!(open && until > now);
                let since = last_opening(&windows, offset, now).expect("it has opened");
                prop_assert!(since <= now);
            }
            Look::Closed { opens } => {
                prop_assert!(!open && opens > now && opens <= now + Duration::days(7));
                let opened = matches!(look(&windows, offset, opens), Look::Open { .. });
                prop_assert!(opened);
                let before = look(&windows, offset, opens - Duration::seconds(1));
                prop_assert_eq!(before, Look::Closed { opens });
                prop_assert_eq!(last_opening(&windows, offset, opens), Some(opens));
            }
        }
        for window in &windows {
            prop_assert_eq!(&window.to_string().parse::<Window>().expect("printed"), window);
        }
    }
}
