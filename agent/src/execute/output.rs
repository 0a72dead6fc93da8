//! What Windows' own tools print and how they exit, as values. Pure; called by the actions that run them.
//!
//! DISM is asked for English (`/English`); SFC writes UTF-16LE into a pipe whatever the code page, and its exit codes
//! are undocumented, so its sentence decides. In other languages the sentence is not recognised; then its lines in
//! CBS.log decide, which are English everywhere.

use fleetmend_proto::HResult;

/// What DISM said about the component store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Healthy,
    Repairable,
    NotRepairable,
    /// Repaired, or nothing to say: the operation completed.
    Completed,
}

/// How a DISM call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dism {
    Ended { store: Store, restart: bool },
    Failed { code: HResult, why: String },
}

/// How SFC ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sfc {
    Clean,
    Repaired,
    NotAllRepaired,
    CouldNotRun,
    RestartFirst,
    NotRecognised,
}

/// How a package installer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Package {
    Installed,
    InstalledRestart,
    AlreadyInstalled,
    /// Usually replaced by something newer: whether the update is installed decides.
    NotApplicable,
    Busy,
    Failed(HResult),
}

/// Bytes of a console tool as text: UTF-16LE with or without a mark, else UTF-8 or an OEM code page whose letters
/// beyond ASCII do not matter here.
pub(super) fn text(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(256)];
    let zeros = head.iter().skip(1).step_by(2).filter(|it| **it == 0).count();
    let is_utf16 = bytes.starts_with(&[0xFF, 0xFE]) || (head.len() >= 2 && zeros * 4 >= head.len());
    let (text, _) = if is_utf16 {
        encoding_rs::UTF_16LE.decode_with_bom_removal(bytes)
    } else if std::str::from_utf8(bytes).is_ok() {
        encoding_rs::UTF_8.decode_with_bom_removal(bytes)
    } else {
        encoding_rs::IBM866.decode_without_bom_handling(bytes)
    };
    text.replace(['\r', '\0'], "")
}

/// Exit codes: 0, 3010 restart, an HRESULT as a signed number, else a Win32 code.
pub(super) fn dism(exit: i32, stdout: &[u8]) -> Dism {
    let text = text(stdout);
    let store = if text.contains("No component store corruption detected") {
        Store::Healthy
    } else if text.contains("The component store cannot be repaired") {
        Store::NotRepairable
    } else if text.contains("The component store is repairable") {
        Store::Repairable
    } else {
        Store::Completed
    };
    if exit == 0 || exit == 3010 {
        return Dism::Ended { store, restart: exit == 3010 };
    }
    let code = printed_error(&text).unwrap_or_else(|| exit_code(exit));
    Dism::Failed { code, why: reason(code, &text) }
}

/// The code of DISM's line `Error: 0x800f081f` or `Error: 87`.
fn printed_error(text: &str) -> Option<HResult> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Error:"))?;
    let word = line.split_whitespace().next()?;
    let code: HResult = word.parse().ok()?;
    Some(u16::try_from(code.0).map_or(code, HResult::from_win32))
}

/// An exit code as an HRESULT: small numbers are Win32 codes.
pub(super) fn exit_code(exit: i32) -> HResult {
    u16::try_from(exit).map_or(HResult(exit.cast_unsigned()), HResult::from_win32)
}

fn reason(code: HResult, text: &str) -> String {
    let known = match code.0 {
        0x800F_081F => "the source files could not be found",
        0x800F_0906 | 0x800F_0907 | 0x800F_0954 => "policy or network keeps the source files away; this is no damage",
        0x8007_0057 => "it refused its arguments",
        0x8007_0070 => "the disk is full",
        0x8007_02E4 => "it was not elevated",
        0x8007_06BE => "the servicing service ended in the middle",
        0x800F_0806 => "an operation before it waits for a restart",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    let lines = text.lines().skip_while(|line| !line.trim().starts_with("Error:")).skip(1);
    lines.map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason").chars().take(200).collect()
}

/// The sentence decides; SFC's exit codes are undocumented.
pub(super) fn sfc(stdout: &[u8]) -> Sfc {
    let words = text(stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    if words.contains("system repair pending which requires reboot") {
        Sfc::RestartFirst
    } else if words.contains("did not find any integrity violations") {
        Sfc::Clean
    } else if words.contains("found corrupt files and successfully repaired them") {
        Sfc::Repaired
    } else if words.contains("found corrupt files but was unable to fix some of them") {
        Sfc::NotAllRepaired
    } else if words.contains("could not perform the requested operation") {
        Sfc::CouldNotRun
    } else {
        Sfc::NotRecognised
    }
}

/// The lines that SFC wrote into CBS.log, marked `[SR]` (Microsoft: "How to analyze the log file entries that the
/// Microsoft Windows Resource Checker (SFC.exe) program generates"). Without a finished verification nothing is known.
pub(super) fn sfc_log(log: &[u8]) -> Sfc {
    let text = text(log);
    let (mut is_complete, mut repaired) = (false, false);
    for line in text.lines().filter_map(|line| line.split_once("[SR]")).map(|(_, said)| said.trim()) {
        if line.starts_with("Cannot repair member file") || line.starts_with("Could not reproject corrupted file") {
            return Sfc::NotAllRepaired;
        }
        is_complete |= line.starts_with("Verify complete");
        repaired |= line.starts_with("Repairing corrupted file") || line.starts_with("Repaired file");
        // `Repairing 2 components`; it is written with 0 too.
        let count = line.strip_prefix("Repairing ").and_then(|it| it.split(' ').next()?.parse::<u64>().ok());
        repaired |= count.is_some_and(|count| count > 0);
    }
    match (is_complete, repaired) {
        (false, _) => Sfc::NotRecognised,
        (true, false) => Sfc::Clean,
        (true, true) => Sfc::Repaired,
    }
}

/// Exit codes of WUSA and of DISM's Add-Package. 0x00240006 is "already installed" (public tables call it a restart).
pub(super) fn package(exit: i32) -> Package {
    match exit.cast_unsigned() {
        0 => Package::Installed,
        3010 | 1641 | 0x0024_0005 => Package::InstalledRestart,
        0x0024_0006 => Package::AlreadyInstalled,
        0x8024_0017 | 0x800F_081E => Package::NotApplicable,
        0x8024_0016 | 1618 => Package::Busy,
        _ => Package::Failed(exit_code(exit)),
    }
}

/// How PnPUtil ended: 259 (`ERROR_NO_MORE_ITEMS`) = no device needs it, as it has this driver or a better one.
pub(super) fn driver(exit: i32) -> Package {
    if exit == 259 { Package::AlreadyInstalled } else { package(exit) }
}

/// The offset in seconds that `w32tm /stripchart /dataonly` measured: the last `+00.0012345s` of its lines.
pub(super) fn clock_offset(stdout: &[u8]) -> Option<f64> {
    text(stdout).lines().rev().find_map(|line| {
        let last = line.rsplit([',', ' ']).next()?.trim();
        let number = last.strip_suffix('s')?;
        (number.starts_with('+') || number.starts_with('-')).then(|| number.parse().ok()).flatten()
    })
}

/// A `host:port` in the output of `netsh winhttp show proxy`, whose words are localised.
pub(super) fn proxy(stdout: &[u8]) -> Option<String> {
    let text = text(stdout);
    text.split_whitespace()
        .find(|word| {
            let host_port = word.rsplit_once(':');
            host_port.is_some_and(|(host, port)| {
                !host.is_empty() && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .map(|word| word.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn dism_phrases_and_exit_codes() {
        let ended = |store, restart| Dism::Ended { store, restart };
        let cases = [
            (
                0,
                "No component store corruption detected.\r\nThe operation completed successfully.",
                ended(Store::Healthy, false),
            ),
            (0, "The component store is repairable.\r\n", ended(Store::Repairable, false)),
            (0, "The component store cannot be repaired.\r\n", ended(Store::NotRepairable, false)),
            (0, "[=====100.0%=====] \r\nThe restore operation completed successfully.", ended(Store::Completed, false)),
            (3010, "The restore operation completed successfully.", ended(Store::Completed, true)),
        ];
        for (exit, text, expected) in cases {
            assert_eq!(dism(exit, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn dism_errors_carry_their_code() {
        let cases = [
            (
                -2_146_498_529,
                "Error: 0x800f081f\r\n\r\nThe source files could not be found.",
                0x800F_081F,
                "the source files could not be found",
            ),
            (-2_146_498_529, "", 0x800F_081F, "the source files could not be found"),
            (87, "Error: 87\r\n\r\nThe restorehealth option is unknown.", 0x8007_0057, "it refused its arguments"),
            (112, "", 0x8007_0070, "the disk is full"),
            (740, "", 0x8007_02E4, "it was not elevated"),
            (1726, "", 0x8007_06BE, "the servicing service ended in the middle"),
            (-2_147_467_259, "Error: 0x80004005\r\n\r\nUnspecified error\r\n", 0x8000_4005, "Unspecified error"),
        ];
        for (exit, text, code, why) in cases {
            assert_eq!(
                dism(exit, text.as_bytes()),
                Dism::Failed { code: HResult(code), why: why.to_owned() },
                "{exit} {text}"
            );
        }
    }

    #[test]
    fn sfc_sentences_in_utf16_and_in_bytes() {
        let cases = [
            ("Windows Resource Protection did not find any integrity violations.", Sfc::Clean),
            ("Windows Resource Protection found corrupt files and successfully\r\nrepaired them.", Sfc::Repaired),
            (
                "Windows Resource Protection found corrupt files but was unable to fix some\r\nof them.",
                Sfc::NotAllRepaired,
            ),
            ("Windows Resource Protection could not perform the requested operation.", Sfc::CouldNotRun),
            ("There is a system repair pending which requires reboot to complete.", Sfc::RestartFirst),
            ("Der Windows-Ressourcenschutz hat keine Integritätsverletzungen gefunden.", Sfc::NotRecognised),
        ];
        for (sentence, expected) in cases {
            assert_eq!(sfc(sentence.as_bytes()), expected, "{sentence}");
            assert_eq!(
                sfc(&utf16(&format!("Beginning system scan.\r\r\n\r\r\n{sentence}\r\r\n"))),
                expected,
                "{sentence}"
            );
        }
        assert_eq!(sfc(b""), Sfc::NotRecognised);
    }

    #[test]
    fn sfc_is_judged_by_its_own_lines_of_the_log() {
        let at = "2026-01-14 04:12:44, Info                  CSI    0000";
        let line = |said: &str| format!("{at}012b [SR] {said}\r\n");
        let other =
            "2026-01-14 04:12:45, Info                  CBS    Cannot repair member file: not SFC\r\n".to_owned();
        let begun = [line("Verifying 100 components"), line("Beginning Verify and Repair transaction"), other].concat();
        let complete = line("Verify complete");
        let cases = [
            (String::new(), Sfc::NotRecognised),
            (begun.clone(), Sfc::NotRecognised),
            ([begun.clone(), complete.clone(), line("Repairing 0 components")].concat(), Sfc::Clean),
            ([begun.clone(), complete.clone(), line("Repairing 2 components")].concat(), Sfc::Repaired),
            (
                [
                    begun.clone(),
                    line("Repairing corrupted file [l:24]\"\\??\\C:\\Windows\" from store"),
                    complete.clone(),
                ]
                .concat(),
                Sfc::Repaired,
            ),
            (
                [begun, line("Cannot repair member file [l:12]\"a.dll\" of B, hash mismatch"), complete].concat(),
                Sfc::NotAllRepaired,
            ),
        ];
        for (log, expected) in cases {
            assert_eq!(sfc_log(log.as_bytes()), expected, "{log}");
        }
    }

    #[test]
    fn package_exit_codes() {
        let cases = [
            (0, Package::Installed),
            (3010, Package::InstalledRestart),
            (1641, Package::InstalledRestart),
            (2_359_301, Package::InstalledRestart),
            (2_359_302, Package::AlreadyInstalled),
            (-2_145_124_329, Package::NotApplicable),
            (-2_145_124_330, Package::Busy),
            (-2_147_023_838, Package::Failed(HResult(0x8007_0422))),
            (87, Package::Failed(HResult(0x8007_0057))),
        ];
        for (exit, expected) in cases {
            assert_eq!(package(exit), expected, "{exit}");
        }
    }

    #[test]
    fn clock_offset_is_read_from_the_last_sample() {
        let chart = "Tracking time.windows.com [20.101.57.9:123].\r\nThe current time is 14.01.2026 03:12:44.\r\n03:12:44, +412.0012345s\r\n";
        assert_eq!(clock_offset(chart.as_bytes()), Some(412.001_234_5));
        assert_eq!(clock_offset(b"03:12:44, -00.2s\r\n"), Some(-0.2));
        assert_eq!(clock_offset(b"03:12:44, error: 0x800705B4\r\n"), None);
    }

    #[test]
    fn proxy_is_found_in_any_language() {
        assert_eq!(proxy(b"    Proxyserver:  proxy.example:8080\r\n"), Some("proxy.example:8080".to_owned()));
        assert_eq!(proxy(b"    Direct access (no proxy server).\r\n"), None);
    }
}
