//! Names of all tensor types that ggml has had, so that a refusal can name what it refuses.

use crate::format::Format;

/// ggml's types that are not among [`FORMATS`](crate::FORMATS).
const OTHERS: &[(u32, &str)] = &[
    (4, "Q4_2 (removed from ggml)"),
    (5, "Q4_3 (removed from ggml)"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (19, "IQ1_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4 (removed from ggml)"),
    (32, "Q4_0_4_8 (removed from ggml)"),
    (33, "Q4_0_8_8 (removed from ggml)"),
    (36, "IQ4_NL_4_4 (removed from ggml)"),
    (37, "IQ4_NL_4_8 (removed from ggml)"),
    (38, "IQ4_NL_8_8 (removed from ggml)"),
];

/// The name that ggml gives to a tensor type, whether bantam supports it or not; `None` for an id that ggml has not
/// used.
pub fn ggml_type_name(id: u32) -> Option<&'static str> {
    let other = || OTHERS.iter().find(|(other, _)| *other == id).map(|(_, name)| *name);
    Format::by_id(id).map(|format| format.name).or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_up_to_q2_0_has_one_name() {
        let names: Vec<_> = (0..=42).map(|id| ggml_type_name(id).expect("named")).collect();
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert_eq!(ggml_type_name(16), Some("IQ2_XXS"));
        assert_eq!(ggml_type_name(12), Some("Q4_K"));
        assert_eq!(ggml_type_name(43), None);
        assert!(OTHERS.iter().all(|(id, _)| Format::by_id(*id).is_none()));
    }
}
