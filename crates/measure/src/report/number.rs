//! Numbers as people read them: three significant digits, units, standard errors.

use crate::results::Estimate;

/// Bytes in decimal units, as file managers and shops count: `98.2 MB`, `1.03 GB`.
pub fn bytes(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (bytes as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => (bytes as f64 / 1e6, "MB"),
        _ => (bytes as f64 / 1e9, "GB"),
    };
    format!("{} {unit}", significant(value))
}

/// A count with a unit of thousands: `135 M`, `1.54 B`.
pub fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{} k", significant(count as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} M", significant(count as f64 / 1e6)),
        _ => format!("{} B", significant(count as f64 / 1e9)),
    }
}

/// Three significant digits, without an exponent where that stays short.
pub fn significant(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        special(value)
    } else if size == 0.0 {
        "0".into()
    } else if !(1e-4..1e7).contains(&size) {
        format!("{value:.1e}")
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else {
        format!("{value:.*}", decimals(size))
    }
}

/// An estimate with its standard error, both to the decimals that the error leaves meaningful: its first digit, or its
/// first two where it begins with a one.
pub fn estimate(estimate: Estimate) -> String {
    let Estimate { mean, se } = estimate;
    if !mean.is_finite() {
        return special(mean);
    }
    if !(1e-9..1e5).contains(&se) || mean.abs() >= 1e7 {
        return format!("{} ± {}", significant(mean), significant(se));
    }
    let digit = se.log10().floor() as i32;
    let begins_with_one = se / 10f64.powi(digit) < 1.95;
    let decimals = (i32::from(begins_with_one) - digit).clamp(0, 9) as usize;
    format!("{mean:.decimals$} ± {se:.decimals$}")
}

/// A share as a percentage, with a no-break space: `91.2 %`.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}\u{a0}%", 100.0 * share) } else { special(share) }
}

/// A share with its standard error: `91.2 % ± 0.3`.
pub fn percent_estimate(estimate: Estimate) -> String {
    let mean = percent(estimate.mean);
    if estimate.mean.is_finite() && estimate.se.is_finite() {
        format!("{mean} ± {:.1}", 100.0 * estimate.se)
    } else {
        mean
    }
}

/// A duration: `0.8 s`, `42 s`, `3 min 20 s`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        special(f64::NAN)
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 99.5 {
        format!("{seconds:.0} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// Decimals that leave three significant digits of a value below 100.
fn decimals(size: f64) -> usize {
    (2 - size.log10().floor() as i32).clamp(0, 6) as usize
}

fn special(value: f64) -> String {
    if value.is_nan() {
        "not a number".into()
    } else if value > 0.0 {
        "∞".into()
    } else {
        "−∞".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        assert_eq!(significant(0.056_27), "0.0563");
        assert_eq!(significant(1.0), "1.00");
        assert_eq!(significant(99.96), "100");
        assert_eq!(significant(1234.5), "1234");
        assert_eq!(significant(0.000_012_34), "1.2e-5");
        assert_eq!(significant(0.0), "0");
        assert_eq!(significant(f64::NAN), "not a number");
        assert_eq!(significant(f64::INFINITY), "∞");
    }

    #[test]
    fn units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_240_000), "98.2 MB");
        assert_eq!(bytes(1_030_000_000), "1.03 GB");
        assert_eq!(count(134_515_008), "135 M");
        assert_eq!(seconds(200.2), "3 min 20 s");
    }

    #[test]
    fn errors_have_the_decimals_of_their_means() {
        assert_eq!(estimate(Estimate { mean: 0.0563, se: 0.00214 }), "0.056 ± 0.002");
        assert_eq!(estimate(Estimate { mean: 1.02768, se: 0.0018 }), "1.0277 ± 0.0018");
        assert_eq!(estimate(Estimate { mean: 12.34, se: 0.5 }), "12.3 ± 0.5");
        assert_eq!(estimate(Estimate { mean: 0.0, se: 0.0 }), "0 ± 0");
        assert_eq!(estimate(Estimate { mean: f64::NAN, se: 0.1 }), "not a number");
        assert_eq!(percent_estimate(Estimate { mean: 0.912, se: 0.003 }), "91.2\u{a0}% ± 0.3");
    }
}
