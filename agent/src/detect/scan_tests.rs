use proptest::prelude::*;

use super::*;

const EIGHT: fn() -> Encoding = || Encoding::of(b"").0;

fn scan(format: Format, encoding: &Encoding, piece: &[u8], is_last: bool) -> Scanned {
    super::scan(format, encoding, piece, is_last, false)
}

fn event(record: u32) -> String {
    format!(
        "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
         <Provider Name='Microsoft-Windows-WindowsUpdateClient'/><EventID>20</EventID>\
         <TimeCreated SystemTime='2026-01-14T03:12:44Z'/><EventRecordID>{record}</EventRecordID>\
         <Channel>System</Channel></System><EventData><Data Name='errorCode'>0x80073712</Data>\
         <Data Name='updateTitle'>Update (KB5999991)</Data></EventData></Event>"
    )
}

fn xml(text: &str) -> Scanned {
    scan(Format::EventXml, &EIGHT(), text.as_bytes(), true)
}

#[test]
fn events_stand_alone_in_a_stream_or_under_a_root() {
    let (a, b) = (event(1), event(2));
    for text in [
        format!("{a}{b}"),
        format!("{a}\r\n{b}\r\n"),
        format!("<Events>{a}{b}</Events>"),
        format!("<?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n<Events>\r\n{a}\r\n{b}\r\n</Events>"),
        format!("<!-- exported -->\n{a}\n<!-- <b> -->{b}"),
    ] {
        let found = xml(&text);
        assert_eq!((found.records.len(), found.bad), (2, vec![]), "{text}");
        assert_eq!(found.used, text.len());
    }
}

#[test]
fn a_broken_event_hides_no_other() {
    for (broken, reason) in [
        ("<Event><System><EventID>20</System></Event>", "not well-formed XML"),
        ("<Event><System><EventID>20</EventID>", "breaks off"),
        ("<Event><System", "not well-formed XML"),
        ("<Event></Event></Event>", "end tag of an event that never began"),
        ("<Event/ ><a></b></Event>", ""),
    ] {
        let text = format!("{}\n{broken}\n{}\n{}", event(1), event(2), event(3));
        let found = xml(&text);
        assert_eq!(found.records.len(), 3, "{broken}");
        assert_eq!(found.bad.len(), 1, "{broken}: {:?}", found.bad);
        assert_eq!(found.bad[0].0, 1, "{broken}");
        assert!(found.bad[0].1.to_string().contains(reason), "{broken}: {}", found.bad[0].1);
    }
}

#[test]
fn an_event_is_left_until_it_is_whole() {
    let (a, b) = (event(1), event(2));
    let text = format!("{a}\n{b}");
    for cut in 0..text.len() {
        let first = scan(Format::EventXml, &EIGHT(), &text.as_bytes()[..cut], false);
        assert_eq!(first.bad, vec![], "cut at {cut}");
        assert!(first.used <= cut);
        let rest = scan(Format::EventXml, &EIGHT(), &text.as_bytes()[first.used..], true);
        assert_eq!(rest.bad, vec![], "cut at {cut}");
        assert_eq!(first.records.len() + rest.records.len(), 2, "cut at {cut}");
    }
}

#[test]
fn what_is_cut_off_at_the_end_is_told_once_the_file_is_whole() {
    let text = format!("{}\n<Event><System>", event(1));
    let found = xml(&text);
    assert_eq!(found.records.len(), 1);
    assert_eq!(found.bad, vec![(1, BadRecord::CutOff)]);
    let found = xml(&format!("{}\n\n<Event xmlns='x", event(1)));
    assert_eq!(found.bad, vec![(2, BadRecord::CutOff)]);
}

#[test]
fn endless_lines_and_events_are_given_up() {
    let text = format!("{}{}", event(1), "<Event>".to_owned() + &"x".repeat(MAX_EVENT + 1));
    let found = scan(Format::EventXml, &EIGHT(), text.as_bytes(), false);
    assert_eq!(found.used, text.len());
    assert_eq!(found.bad, vec![(0, BadRecord::EventTooLong { limit: MAX_EVENT })]);

    let text = "x".repeat(MAX_LINE + 1);
    let found = scan(Format::ReportingEvents, &EIGHT(), text.as_bytes(), false);
    assert_eq!(found.used, text.len());
    assert_eq!(found.bad, vec![(0, BadRecord::LineTooLong { limit: MAX_LINE })]);
}

#[test]
fn lines_end_with_or_without_carriage_return() {
    let line = "{2A6C1B0E-7F11-4E52-9D8C-0B1A2C3D4E5F}\t2026-01-14 04:12:44:123+0100\t1\t183\t101\t\
                {7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}\t200\t0\tx\tSuccess\tContent Install\tx";
    for ending in ["\n", "\r\n"] {
        let text = [line, "", "bad", line].join(ending);
        let found = scan(Format::ReportingEvents, &EIGHT(), text.as_bytes(), true);
        assert_eq!((found.records.len(), found.bad), (2, vec![(2, BadRecord::Columns { found: 1 })]));
        let found = scan(Format::ReportingEvents, &EIGHT(), text.as_bytes(), false);
        assert_eq!((found.records.len(), found.used), (1, text.len() - line.len()));
    }
}

#[test]
fn what_is_too_long_is_told_once_and_skipped_to_its_end() {
    let on = |format, text: &str, skips| super::scan(format, &EIGHT(), text.as_bytes(), false, skips);
    let long = "x".repeat(MAX_LINE + 1);
    let first = on(Format::ReportingEvents, &long, false);
    assert_eq!((first.bad.len(), first.skips, first.used), (1, true, long.len()));
    let middle = on(Format::ReportingEvents, &long, true);
    assert_eq!((middle.bad.len(), middle.skips, middle.used), (0, true, long.len()));
    let last = on(Format::ReportingEvents, "rest of it\nbad\n", true);
    assert_eq!((last.bad, last.skips), (vec![(1, BadRecord::Columns { found: 1 })], false));

    let long = format!("<Event>{}", "x".repeat(MAX_EVENT));
    let first = on(Format::EventXml, &long, false);
    assert_eq!((first.bad.len(), first.skips), (1, true));
    let middle = on(Format::EventXml, &"x".repeat(MAX_EVENT + 1), true);
    assert_eq!((middle.bad.len(), middle.skips), (0, true));
    for rest in ["rest</Event>", "rest of what never ends"] {
        let last = on(Format::EventXml, &format!("{rest}{}</Event>", event(1)), true);
        assert_eq!((last.records.len(), last.bad, last.skips), (1, vec![(0, BadRecord::NoStart)], false), "{rest}");
    }
}

#[test]
fn a_piece_of_nothing_but_rubbish_is_counted_and_not_kept() {
    let found = scan(Format::ReportingEvents, &EIGHT(), "x\n".repeat(100_000).as_bytes(), true);
    assert_eq!(found.bad.len(), LISTED);
    assert_eq!(found.unlisted, Some((200, 100_000 - LISTED)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_progress_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..600), is_last: bool) {
        for format in [Format::ReportingEvents, Format::EventXml, Format::UpdateHistory, Format::Other] {
            let (encoding, bom) = Encoding::of(&bytes);
            let wide = encoding.widen(&bytes[bom..]).into_owned();
            let found = scan(format, &encoding, &wide, is_last);
            prop_assert!(found.used <= wide.len());
            if is_last {
                prop_assert_eq!(found.used, wide.len());
            }
        }
    }

    #[test]
    fn tags_in_any_order_never_panic(parts in prop::collection::vec(prop::sample::select(vec![
        "<Event>", "</Event>", "<Event/>", "<Event", "<e:Event a='>'>", "</e:Event>", "<Events>", "<", ">", "\n", "x", "<EventData>",
    ]), 0..40)) {
        let text = parts.concat();
        let whole = xml(&text);
        prop_assert_eq!(whole.used, text.len());
        let lines = u64::try_from(text.lines().count()).unwrap_or_default();
        prop_assert!(whole.bad.iter().all(|(line, _)| *line <= lines));
    }
}
