//! Which Hugging Face model is which GGUF architecture, and what its tensors are called on either side.

/// A model family: one row per architecture that bantam translates.
pub struct Family {
    /// `general.architecture` in GGUF.
    pub architecture: &'static str,
    /// `model_type` values in config.json; the first is written.
    pub model_types: &'static [&'static str],
    /// The entry in `architectures` of config.json.
    pub class: &'static str,
    /// The activation function of the feed-forward layers.
    pub activation: &'static str,
    /// What stands before the names of all tensors in some directories and not in others.
    pub root: &'static str,
    /// What stands before a layer's number.
    pub layers: &'static str,
    /// Names in a layer: after its number and after `blk.N.`, without `.weight` and `.bias`.
    pub layer: &'static [(&'static str, &'static str)],
    /// Names outside of the layers, in file order: those before the layers, then those after.
    pub before: &'static [(&'static str, &'static str)],
    /// See `before`.
    pub after: &'static [(&'static str, &'static str)],
    /// Beginnings of the names of tensors that the model, as GGUF has it, does not need.
    pub ignored: &'static [&'static str],
    /// Whether the norms are stored without the one that is added to them.
    pub norms_without_one: bool,
    /// Whether Q and K rows are stored for rotary pairs in halves, where GGUF has neighbours.
    pub halves_to_neighbours: bool,
}

/// Where decoders have their layers, and what lies around them.
const DECODER_LAYERS: &str = "model.layers.";
const DECODER_BEFORE: &[(&str, &str)] = &[("model.embed_tokens", "token_embd")];
const DECODER_AFTER: &[(&str, &str)] = &[("model.norm", "output_norm"), ("lm_head", "output")];

const LLAMA_LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const QWEN3_LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const GEMMA3_LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const BERT_BEFORE: &[(&str, &str)] = &[
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
];

const BERT_LAYER: &[(&str, &str)] = &[
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];

/// Every family that bantam translates.
pub const FAMILIES: [Family; 5] = [
    Family {
        architecture: "llama",
        model_types: &["llama", "mistral"],
        class: "LlamaForCausalLM",
        activation: "silu",
        root: "",
        layers: DECODER_LAYERS,
        layer: LLAMA_LAYER,
        before: DECODER_BEFORE,
        after: DECODER_AFTER,
        ignored: &[],
        norms_without_one: false,
        halves_to_neighbours: true,
    },
    Family {
        architecture: "qwen2",
        model_types: &["qwen2"],
        class: "Qwen2ForCausalLM",
        activation: "silu",
        root: "",
        layers: DECODER_LAYERS,
        layer: LLAMA_LAYER,
        before: DECODER_BEFORE,
        after: DECODER_AFTER,
        ignored: &[],
        norms_without_one: false,
        halves_to_neighbours: false,
    },
    Family {
        architecture: "qwen3",
        model_types: &["qwen3"],
        class: "Qwen3ForCausalLM",
        activation: "silu",
        root: "",
        layers: DECODER_LAYERS,
        layer: QWEN3_LAYER,
        before: DECODER_BEFORE,
        after: DECODER_AFTER,
        ignored: &[],
        norms_without_one: false,
        halves_to_neighbours: false,
    },
    Family {
        architecture: "gemma3",
        model_types: &["gemma3_text"],
        class: "Gemma3ForCausalLM",
        activation: "gelu_pytorch_tanh",
        root: "",
        layers: DECODER_LAYERS,
        layer: GEMMA3_LAYER,
        before: DECODER_BEFORE,
        after: DECODER_AFTER,
        ignored: &[],
        norms_without_one: true,
        halves_to_neighbours: false,
    },
    Family {
        architecture: "bert",
        model_types: &["bert"],
        class: "BertModel",
        activation: "gelu",
        root: "bert.",
        layers: "encoder.layer.",
        layer: BERT_LAYER,
        before: BERT_BEFORE,
        after: &[],
        // The pooler and the heads of pre-training; sentence encoders use the hidden states.
        ignored: &["embeddings.position_ids", "pooler.", "cls."],
        norms_without_one: false,
        halves_to_neighbours: false,
    },
];

/// A tensor's name on both sides, and its place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The GGUF name.
    pub gguf: String,
    /// The Hugging Face name.
    pub hf: String,
    /// Sorts tensors as GGUF files have them: embedding, layers, output.
    pub place: (usize, usize),
}

impl Name {
    /// Its layer, if it is in one.
    pub fn layer(&self) -> Option<usize> {
        self.place.0.checked_sub(1).filter(|&layer| layer < usize::MAX - 1)
    }
}

impl Family {
    /// The family of a `model_type`.
    pub fn by_model_type(model_type: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|f| f.model_types.contains(&model_type))
    }

    /// The family of a GGUF architecture.
    pub fn by_architecture(architecture: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|f| f.architecture == architecture)
    }

    /// Whether the family's models end in a norm and a head, which encoders lack.
    pub fn is_encoder(&self) -> bool {
        self.after.is_empty()
    }

    /// Whether the model does not need the tensor that Hugging Face calls `name`.
    pub fn ignores(&self, name: &str) -> bool {
        let name = name.strip_prefix(self.root).unwrap_or(name);
        self.ignored.iter().any(|start| name.starts_with(start))
    }

    /// The tensor that Hugging Face calls `name`.
    pub fn by_hf_name(&self, name: &str) -> Option<Name> {
        let name = name.strip_prefix(self.root).unwrap_or(name);
        self.translate(name, self.layers, |(hf, _)| hf)
    }

    /// The tensor that GGUF calls `name`.
    pub fn by_gguf_name(&self, name: &str) -> Option<Name> {
        self.translate(name, "blk.", |(_, gguf)| gguf)
    }

    /// The weights that a model of so many layers has (biases, which only some have, aside), its head only if it has one of
    /// its own.
    pub fn weights(&self, layers: usize, tied: bool) -> impl Iterator<Item = Name> {
        let outside = self.before.iter().chain(self.after).filter(move |(_, gguf)| !(tied && *gguf == "output"));
        let outside = outside.map(|(_, gguf)| format!("{gguf}.weight"));
        let of_layer = |i: usize| self.layer.iter().map(move |(_, gguf)| format!("blk.{i}.{gguf}.weight"));
        let names = outside.chain((0..layers).flat_map(of_layer));
        names.map(|name| self.by_gguf_name(&name).expect("its tables have it"))
    }

    fn translate(
        &self,
        name: &str,
        layers: &str,
        side: fn((&'static str, &'static str)) -> &'static str,
    ) -> Option<Name> {
        let (stem, kind) = name.rsplit_once('.')?;
        let kind = match kind {
            "weight" | "gamma" => "weight", // The first exports of BERT name a norm's parameters in Greek.
            "bias" | "beta" => "bias",
            _ => return None,
        };
        let find = |table: &[(&'static str, &'static str)], stem: &str| table.iter().position(|&row| side(row) == stem);
        if let Some(rest) = stem.strip_prefix(layers) {
            let (layer, stem) = rest.split_once('.')?;
            let layer: usize = layer.parse().ok().filter(|&n: &usize| n < usize::MAX / 2 && n.to_string() == layer)?;
            let row = find(self.layer, stem)?;
            let (hf, gguf) = self.layer[row];
            return Some(Name {
                gguf: format!("blk.{layer}.{gguf}.{kind}"),
                hf: format!("{}{layer}.{hf}.{kind}", self.layers),
                place: (layer + 1, 2 * row + usize::from(kind == "bias")),
            });
        }
        let outside = |table: &[(&'static str, &'static str)], block: usize| {
            let row = find(table, stem)?;
            let (hf, gguf) = table[row];
            let place = (block, 2 * row + usize::from(kind == "bias"));
            Some(Name { gguf: format!("{gguf}.{kind}"), hf: format!("{hf}.{kind}"), place })
        };
        outside(self.before, 0).or_else(|| outside(self.after, usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways() {
        let gemma = Family::by_architecture("gemma3").unwrap();
        let name = gemma.by_hf_name("model.layers.12.post_attention_layernorm.weight").unwrap();
        assert_eq!(name.gguf, "blk.12.post_attention_norm.weight");
        assert_eq!(gemma.by_gguf_name(&name.gguf).unwrap(), name);
        let llama = Family::by_model_type("llama").unwrap();
        assert_eq!(llama.by_hf_name("lm_head.weight").unwrap().gguf, "output.weight");
        assert_eq!(llama.by_gguf_name("token_embd.weight").unwrap().hf, "model.embed_tokens.weight");
        let bert = Family::by_model_type("bert").unwrap();
        let name = bert.by_hf_name("bert.encoder.layer.3.attention.output.LayerNorm.gamma").unwrap();
        assert_eq!(name.gguf, "blk.3.attn_output_norm.weight");
        assert_eq!(name.hf, "encoder.layer.3.attention.output.LayerNorm.weight");
        assert!(bert.ignores("bert.pooler.dense.weight") && !bert.ignores("classifier.weight"));
        for unknown in [
            "model.layers.x.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj",
            "model.layers.00.mlp.up_proj.weight",
            "weight",
        ] {
            assert_eq!(llama.by_hf_name(unknown), None, "{unknown}");
        }
    }
}
