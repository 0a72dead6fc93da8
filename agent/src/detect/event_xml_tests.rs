use fleetmend_proto::{Kb, Source};
use proptest::prelude::*;
use uuid::uuid;

use super::*;

const UPDATE_DATA: &str = "<Data Name=\"updateTitle\">2026-01 Cumulative Update (KB5999991)</Data>\
                           <Data Name=\"updateGuid\">{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}</Data>\
                           <Data Name=\"updateRevisionNumber\">200</Data>\
                           <Data Name=\"serviceGuid\">{9482F4B4-E343-43B6-B170-9A65BC822C77}</Data>";

fn system(provider: &str, id: u32, channel: &str) -> String {
    format!(
        "<System><Provider Name=\"{provider}\" Guid=\"{{945A8954-C147-4ACD-923F-40C45405A658}}\"/><EventID>{id}</EventID>\
         <TimeCreated SystemTime=\"2026-01-14T03:12:44.1234567Z\"/><EventRecordID>48211</EventRecordID><Correlation/>\
         <Channel>{channel}</Channel><Computer>WS-0042.corp.example</Computer><Security UserID=\"S-1-5-18\"/></System>"
    )
}

fn client(id: u32, data: &str) -> String {
    let system = system(UPDATE_CLIENT, id, "System");
    format!(
        "<Event xmlns=\"http://schemas.microsoft.com/win/2004/08/events/event\">{system}<EventData>{data}</EventData></Event>"
    )
}

fn failed(code: &str) -> String {
    client(20, &format!("<Data Name=\"errorCode\">{code}</Data>{UPDATE_DATA}"))
}

fn setup(id: u32, package: &str, number: &str, word: &str, code: &str) -> String {
    format!(
        "<Event>{}<UserData><CbsPackageChangeState xmlns=\"http://manifests.microsoft.com/win/2004/08/windows/setup_provider\">\
         <PackageIdentifier>{package}</PackageIdentifier><IntendedPackageState>{number}</IntendedPackageState>\
         <IntendedPackageStateTextized>{word}</IntendedPackageStateTextized><ErrorCode>{code}</ErrorCode>\
         <Client>UpdateAgentLCU</Client></CbsPackageChangeState></UserData></Event>",
        system(SERVICING, id, "Setup")
    )
}

fn one(xml: &str) -> Record {
    parse(xml).expect("well formed").expect("an end")
}

fn end(xml: &str) -> Option<(Operation, OutcomeResult)> {
    parse(xml).expect("well formed").map(|record| (record.mark.operation, record.mark.result))
}

#[test]
fn a_failure_is_read_whole() {
    let record = one(&failed("0x80073712"));
    assert_eq!(record.mark.update_id, Some(uuid!("7b0f6a52-1d7e-4a43-9a3b-5c2d0e9f1a01")));
    assert_eq!((record.mark.revision, record.mark.kb), (Some(200), Some(Kb(5_999_991))));
    assert_eq!(record.mark.at.to_rfc3339(), "2026-01-14T03:12:44.123456+00:00");
    assert_eq!(record.code, HResult(0x8007_3712));
    assert_eq!(record.service, Some(uuid!("9482f4b4-e343-43b6-b170-9a65bc822c77")));
    assert_eq!(record.mark.stream.source(), Source::EventLog);
}

#[test]
fn ids_mean_what_windows_means() {
    use Operation::{Download, Install, Uninstall};
    use OutcomeResult::{Failed, Succeeded};
    let data = format!("<Data Name=\"errorCode\">0x80073712</Data>{UPDATE_DATA}");
    for (id, meaning) in [
        (19, Some((Install, Succeeded))),
        (20, Some((Install, Failed))),
        (23, Some((Uninstall, Succeeded))),
        (24, Some((Uninstall, Failed))),
        (31, Some((Download, Failed))),
        (17, None),
        (18, None),
        (21, None),
        (22, None),
        (25, None),
        (40, None),
        (41, None),
        (43, None),
        (44, None),
    ] {
        assert_eq!(end(&client(id, &data)), meaning, "{id}");
    }
}

#[test]
fn setup_records_are_told_by_intended_state() {
    use Operation::{Install, Uninstall};
    use OutcomeResult::{Failed, PendingReboot, Succeeded};
    for (id, number, word, meaning) in [
        (2, "5112", "Installed", Some((Install, Succeeded))),
        (2, "5112", "", Some((Install, Succeeded))),
        (2, "5112", "Installiert", Some((Install, Succeeded))),
        (2, "5000", "Absent", Some((Uninstall, Succeeded))),
        (2, "5000", "Nicht vorhanden", Some((Uninstall, Succeeded))),
        (2, "5064", "Staged", None),
        (3, "5064", "Staged", Some((Install, Failed))),
        (3, "5112", "Installed", Some((Install, Failed))),
        (3, "5000", "Absent", Some((Uninstall, Failed))),
        (4, "5112", "Installed", Some((Install, PendingReboot))),
        (6, "5112", "Installed", Some((Install, Failed))),
        (1, "5112", "Installed", None),
        (9, "5112", "Installed", None),
    ] {
        assert_eq!(end(&setup(id, "KB5999991", number, word, "0x800f0922")), meaning, "{id} {number} {word}");
    }
    let record = one(&setup(3, "Package_for_KB5034441~31bf3856ad364e35~amd64~~1.0", "5112", "Installed", "0x800f0922"));
    assert_eq!((record.mark.kb, record.code), (Some(Kb(5_034_441)), HResult(0x800F_0922)));
    assert_eq!(end(&setup(3, "Package_for_RollupFix~31bf~amd64~~26100.1", "5112", "Installed", "0x1")), None);
}

#[test]
fn spelling_of_xml_does_not_matter() {
    let expected = one(&failed("0x80073712"));
    let single = failed("0x80073712").replace('"', "'");
    assert_eq!(one(&single), expected);
    let spaced =
        failed("0x80073712").replace("><", ">\r\n\t <").replace("<EventID>20<", "<EventID Qualifiers=\"0\"> 20 <");
    assert_eq!(one(&spaced), expected);
    let prefixed = failed("0x80073712").replace("</", "</e:").replace('<', "<e:").replace("<e:/e:", "</e:");
    assert_eq!(one(&prefixed), expected);
    let rendered = failed("0x80073712").replace(
        "</Event>",
        "<RenderingInfo Culture='de-DE'><Message>Fehler 0x1</Message><Channel>x</Channel><Provider>y</Provider>\
         <EventID>19</EventID></RenderingInfo></Event>",
    );
    assert_eq!(one(&rendered), expected);
    let bare = failed("0x80073712").replace(['{', '}'], "");
    assert_eq!(one(&bare), expected);
}

#[test]
fn codes_come_as_hex_and_as_decimals() {
    for text in ["0x80073712", "0X80073712", "-2147010798", "2147956498"] {
        assert_eq!(one(&failed(text)).code, HResult(0x8007_3712), "{text}");
    }
    assert_eq!(
        parse(&failed("unknown")).expect_err("no code").to_string(),
        r#"errorCode "unknown" is not a code like 0x80073712 or -2147010798"#
    );
    assert_eq!(parse(&client(20, UPDATE_DATA)), Err(BadRecord::Missing { field: "errorCode" }));
}

#[test]
fn references_in_text_are_resolved() {
    let title = "A &amp; B &lt;x&gt; &#x66F4;&#26032; <![CDATA[c < d]]> (KB5999991)";
    let record = one(&failed("0x1").replace("2026-01 Cumulative Update (KB5999991)", title));
    assert_eq!(record.title, "A & B <x> 更新 c < d (KB5999991)");
    let unknown = failed("0x1").replace("2026-01", "&nbsp;");
    assert!(matches!(parse(&unknown), Err(BadRecord::Xml(_))));
}

#[test]
fn events_of_no_update_are_told_from_broken_ones() {
    let zero = "<Data Name='errorCode'>0x1</Data><Data Name='updateGuid'>{00000000-0000-0000-0000-000000000000}</Data>";
    assert_eq!(parse(&client(20, zero)), Ok(None));
    assert_eq!(parse(&client(20, "<Data Name='errorCode'>0x1</Data>")), Err(BadRecord::NoUpdate));
    assert_eq!(parse("<Event><System><Provider Name='Other'/><EventID>20</EventID></System></Event>"), Ok(None));
    let bad_id = failed("0x1").replace("{7B0F6A52-", "{7B0F-");
    assert!(parse(&bad_id).expect_err("no GUID").to_string().starts_with("updateGuid"));
    let no_time = failed("0x1").replace("2026-01-14T03:12:44.1234567Z", "yesterday");
    assert!(parse(&no_time).expect_err("no time").to_string().starts_with("SystemTime"));
}

#[test]
fn broken_xml_is_an_error_and_shows_no_control_characters() {
    let whole = failed("0x80073712");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        assert!(parse(&whole[..end]).is_err(), "cut at {end}");
    }
    let error = parse("<Event><\u{1b}[31m></Event>").expect_err("mismatched").to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
    let deep = format!("<Event>{}", "<a>".repeat(10_000));
    assert!(parse(&deep).is_err());
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", tags in "[<>/&;= \"'a-eE]{0,200}") {
        let _ = parse(&text);
        let _ = parse(&tags);
    }

    #[test]
    fn a_mangled_event_never_panics(at in 0_usize..1200, with in "\\PC{0,4}") {
        let mut xml = failed("0x80073712");
        if at < xml.len() {
            xml.replace_range(at..=at, &with);
        }
        let _ = parse(&xml);
    }

    #[test]
    fn a_printed_event_reads_back(code in any::<u32>(), id in 1..u128::MAX, revision in any::<i32>(), title in "[a-zA-Zäé更<>&\"' ]{0,40}") {
        let id = uuid::Uuid::from_u128(id);
        let text = quick_xml::escape::escape(title.as_str());
        let xml = client(20, &format!(
            "<Data Name=\"errorCode\">0x{code:08x}</Data><Data Name=\"updateTitle\">{text}</Data>\
             <Data Name=\"updateGuid\">{{{id}}}</Data><Data Name=\"updateRevisionNumber\">{revision}</Data>"
        ));
        let record = one(&xml);
        prop_assert_eq!((record.code, record.mark.update_id, record.mark.revision), (HResult(code), Some(id), Some(revision)));
        prop_assert_eq!(record.title, clean_title(&title));
    }
}
