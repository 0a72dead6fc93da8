//! Every row of the embedded catalogue, the rows people ask about by name, and what a bad file is told.

use super::*;

fn row(code: u32) -> &'static Entry {
    Catalogue::embedded().get(HResult(code)).expect("the catalogue has the code")
}

#[test]
fn all_rows_are_there_in_order_and_once() {
    let entries = Catalogue::embedded().entries();
    assert_eq!(entries.len(), 501);
    for pair in entries.windows(2) {
        assert!(pair[0].code < pair[1].code, "{} does not come before {}", pair[0].code, pair[1].code);
    }
    for entry in entries {
        assert_eq!(Catalogue::embedded().get(entry.code), Some(entry));
    }
}

#[test]
fn the_highest_tier_follows_from_entry_and_category_in_every_row() {
    for entry in Catalogue::embedded().entries() {
        let of_category = match entry.category.word() {
            "already_installed" => 0,
            "transient_network" | "server_side" | "policy_blocked" | "user_action" => 1,
            "unknown" | "service_disabled" => 3,
            _ => 6,
        };
        let wanted = entry.entry.number().map(|number| if number > of_category { number } else { of_category });
        assert_eq!(entry.max_tier, wanted, "{}", entry.code);
        if let EntryPoint::Tier(tier) = entry.entry {
            assert!(entry.highest() >= Some(tier), "{}", entry.code);
        }
    }
}

#[test]
fn every_row_tells_people_what_to_do() {
    for entry in Catalogue::embedded().entries() {
        let advice = &entry.advice;
        assert!(advice.len() > 60 && advice.ends_with('.'), "{}: {advice}", entry.code);
        assert!(advice.matches(". ").count() >= 1, "{} says what it is but not what to do: {advice}", entry.code);
        assert!(entry.source.contains("confidence "), "{}: {}", entry.code, entry.source);
        assert!(advice.is_ascii() && entry.source.is_ascii(), "{}", entry.code);
    }
}

#[test]
fn codes_that_are_asked_for_by_name() {
    let tier = |number| EntryPoint::Tier(Tier::try_from(number).expect("a tier"));
    let cases = [
        (0x8007_0103, Category::AlreadyInstalled, EntryPoint::Benign, Some(0), false),
        (0x8024_402C, Category::TransientNetwork, tier(1), Some(1), false),
        (0x8007_3712, Category::ComponentStoreCorruption, tier(3), Some(6), true),
        (0x8024_2006, Category::CacheCorruption, tier(4), Some(6), false),
        (0x8007_0BC9, Category::InUseRebootPending, tier(1), Some(6), true),
        (0x8007_0070, Category::DiskSpace, EntryPoint::People, None, false),
        // Benign in a category with a higher number: the category's number stays.
        (0x8024_0017, Category::PackageMismatch, EntryPoint::Benign, Some(6), false),
        // A row that enters above its category's number.
        (0x8007_2F8F, Category::TransientNetwork, tier(2), Some(2), false),
        (0x8000_FFFF, Category::Unknown, tier(4), Some(4), false),
    ];
    for (code, category, entry, max, reboot) in cases {
        let row = row(code);
        assert_eq!((row.category, row.entry, row.max_tier), (category, entry, max), "{}", row.code);
        assert_eq!(row.needs_reboot, reboot, "{}", row.code);
    }
    assert_eq!(row(0x8007_0103).symbol, "ERROR_NO_MORE_ITEMS");
}

#[test]
fn an_unknown_code_enters_at_1_and_stops_at_3() {
    for (code, facility) in [
        (0x8024_4999, "update protocol"),
        (0x8024_7999, "Windows Update agent"),
        (0x800F_FFFF, "component servicing"),
        (0x8007_2FFF, "network"),
        (0xC190_9999, "Windows setup"),
        (0x1234_5678, "no name"),
    ] {
        let entry = Catalogue::embedded().resolve(HResult(code));
        assert_eq!(entry.category, Category::Unknown);
        assert_eq!(entry.entry, EntryPoint::Tier(Tier::Retry));
        assert_eq!(entry.highest(), Some(Tier::RepairImage));
        assert!(entry.advice.contains(facility), "{}: {}", entry.code, entry.advice);
    }
    assert!(matches!(Catalogue::embedded().resolve(HResult(0x8007_3712)), Cow::Borrowed(_)));
}

#[test]
fn wrappers_are_codes_of_the_catalogue_and_others_are_none() {
    for wrapper in WRAPPERS {
        assert!(is_wrapper(wrapper));
        assert!(Catalogue::embedded().get(wrapper).is_some(), "{wrapper}");
    }
    assert!(!is_wrapper(HResult(0x8024_402C)));
}

#[test]
fn json_has_the_names_of_the_api() {
    let json = serde_json::to_value(row(0x8007_0070)).expect("a row is JSON");
    let object = json.as_object().expect("an object");
    let keys: Vec<_> = object.keys().map(String::as_str).collect();
    for key in ["code", "symbol", "category", "entry_tier", "max_tier", "retryable", "needs_reboot", "advice", "source"]
    {
        assert!(keys.contains(&key), "{key} is missing of {keys:?}");
    }
    assert_eq!(keys.len(), 9);
    assert_eq!(object["code"], "0x80070070");
    assert!(object["entry_tier"].is_null() && object["max_tier"].is_null());
    assert_eq!(serde_json::to_value(row(0x8007_0103)).expect("JSON")["entry_tier"], 0);
}

#[test]
fn a_bad_file_is_told_line_and_column() {
    const HEADER: &str = "code,symbol,category,entry_tier,max_tier,retryable,needs_reboot,advice,source";
    const GOOD: &str = "0x80073712,X,component_store_corruption,3,6,yes,yes,Repair.,here";
    let cases = [
        (GOOD.replace("0x80073712", "0x8007zz12"), "code", Fault::Code),
        (GOOD.replace("0x80073712", "80073712"), "code", Fault::Code),
        (GOOD.replace("component_store_corruption", "rust"), "category", Fault::Category),
        (GOOD.replace(",3,6,", ",7,6,"), "entry_tier", Fault::Tier),
        (GOOD.replace(",3,6,", ",3,5,"), "max_tier", Fault::Max),
        (GOOD.replace(",3,6,", ",,6,"), "max_tier", Fault::Max),
        (GOOD.replace(",yes,yes,", ",maybe,yes,"), "retryable", Fault::YesNo),
        (GOOD.replace("Repair.", " "), "advice", Fault::Empty),
        (format!("{GOOD}\n{GOOD}"), "code", Fault::Duplicate),
    ];
    for (body, wanted_column, wanted_fault) in cases {
        let line = 1 + u64::try_from(body.lines().count()).expect("a small number");
        let error = Catalogue::parse(&format!("{HEADER}\n{body}\n")).expect_err("a bad row was taken");
        let CatalogueError::Field { line: at, column, fault, .. } = &error else {
            panic!("{error} names no field");
        };
        assert_eq!((*at, *column, *fault), (line, wanted_column, wanted_fault), "{body}");
        assert!(error.to_string().contains(&format!("line {line}")), "{error}");
    }
    assert!(matches!(Catalogue::parse("code,symbol\n"), Err(CatalogueError::Header { .. })));
    assert!(matches!(Catalogue::parse(&format!("{HEADER}\n{GOOD},more\n")), Err(CatalogueError::Csv(_))));
}
