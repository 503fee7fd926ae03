//! An importance matrix in either form: whatever is accepted has means that can weigh errors.
#![no_main]

use bantam_checkpoint::Imatrix;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(imatrix) = Imatrix::parse(Path::new("fuzz.imatrix"), bytes) {
        for entry in imatrix.entries.values() {
            let means = entry.mean_squares();
            assert_eq!(means.len(), entry.sums().len());
            assert!(means.iter().all(|m| m.is_finite() && *m >= 0.0));
        }
    }
});
