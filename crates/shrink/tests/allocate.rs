//! Mixed precision on tiny random models.

mod common;

use bantam_checkpoint::{Checkpoint, GgufWriter, TensorInfo};
use bantam_formats::Format;
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use bantam_nn::softmax::compare;
use bantam_nn::train::Parameters;
use bantam_shrink::allocate::{Budget, Choice, Coherence, Kept, Measured, Sensitivity, measure, possible, tensors};
use bantam_shrink::distill::TextTask;
use bantam_shrink::quantize::{Method, Plan};
use bantam_shrink::text::{Sequence, Source, SourceSpec};
use bantam_shrink::train::Task;
use bantam_shrink::widen::Widening;
use bantam_shrink::{Error, Mix, students};
use common::checkpoint;
use std::path::{Path, PathBuf};

fn sequences(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let vocab = Model::load(checkpoint).unwrap().config().vocab_size;
    let mut random = SplitMix64::new(4);
    (0..24).map(|_| (0..64).map(|_| random.below(vocab) as u32).collect()).collect()
}

fn measured(checkpoint: &Checkpoint) -> Vec<Sensitivity> {
    measured_of(checkpoint).plain
}

fn weights(checkpoint: &Checkpoint) -> usize {
    checkpoint.tensors().iter().map(|t| t.len()).sum()
}

fn measured_of(checkpoint: &Checkpoint) -> Measured {
    let mut done = 0;
    let measured = measure(checkpoint, &sequences(checkpoint), Kept::nothing(), &mut || done += 1).unwrap();
    assert_eq!((done, measured.plain.len() as u64), (tensors(checkpoint), tensors(checkpoint)));
    measured
}

/// The file of a mix, rounded with error feedback, and its divergence from the model on text that was not measured on.
fn made(checkpoint: &Checkpoint, mix: &Mix) -> (u64, f64) {
    let (folder, sequences) = (tempfile::tempdir().unwrap(), sequences(checkpoint));
    let path = folder.path().join("out.gguf");
    Plan::new(checkpoint, mix).unwrap().write(&path, Method::Gptq(&sequences), &mut |_| ()).unwrap();
    let (base, candidate) = (Model::load(checkpoint).unwrap(), Model::load(&Checkpoint::open(&path).unwrap()).unwrap());
    let vocab = base.config().vocab_size;
    let mut random = SplitMix64::new(5);
    let (mut sum, mut count) = (0.0, 0);
    for _ in 0..16 {
        let tokens: Vec<u32> = (0..64).map(|_| random.below(vocab) as u32).collect();
        let [base, candidate] = [&base, &candidate].map(|model| {
            let mut session = model.session(64);
            let hidden = session.forward(&tokens).unwrap().to_vec();
            let mut logits = vec![0.0; 64 * vocab];
            session.logits(&hidden, &mut logits);
            logits
        });
        for (base, candidate) in base.chunks(vocab).zip(candidate.chunks(vocab)) {
            sum += compare(base, candidate, 0).unwrap().kl;
            count += 1;
        }
    }
    (std::fs::metadata(&path).unwrap().len(), sum / f64::from(count))
}

fn file_bytes(checkpoint: &Checkpoint) -> impl Fn(&Mix) -> Result<u64, Error> {
    |mix| Ok(Plan::new(checkpoint, mix)?.file_bytes(Method::Gptq(&[])))
}

#[test]
fn what_is_predicted_comes_about() {
    for name in ["llama", "gemma3", "qwen3"] {
        let checkpoint = checkpoint(name);
        let measured = measured(&checkpoint);
        for bits in [4.6, 6.0] {
            let allocation = Budget::Bits(bits)
                .allocate(&checkpoint, weights(&checkpoint), &measured, &file_bytes(&checkpoint))
                .unwrap();
            let (_, divergence) = made(&checkpoint, &allocation.mix);
            let ratio = divergence / allocation.divergence();
            // The file is run with activations of eight bits, which costs something too.
            assert!(
                (0.5..2.5).contains(&ratio),
                "{name} at {bits} bits: {divergence:e}, {ratio:.2} of what was predicted"
            );
        }
    }
}

#[test]
fn a_choice_by_sensitivity_loses_less_than_one_format_for_all() {
    for name in ["llama", "gemma3", "qwen2"] {
        let checkpoint = checkpoint(name);
        let (bytes, uniform) = made(&checkpoint, Mix::by_name("Q4_K_M").unwrap());
        let allocation = Budget::File(bytes)
            .allocate(&checkpoint, weights(&checkpoint), &measured(&checkpoint), &file_bytes(&checkpoint))
            .unwrap();
        let (chosen_bytes, chosen) = made(&checkpoint, &allocation.mix);
        assert!(chosen_bytes <= bytes && chosen < uniform, "{name}: {chosen:e} is not below {uniform:e}");
    }
}

#[test]
fn a_wider_model_is_measured_as_it_will_be() {
    let narrow = checkpoint("llama");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.gguf");
    Widening::of(&narrow).unwrap().unwrap().write(&narrow, &path, &mut |_| ()).unwrap();
    let wide = Checkpoint::open(&path).unwrap();
    let (foreseen, measured) = (measured_of(&narrow).widened.unwrap(), measured_of(&wide));
    assert!(measured.widened.is_none(), "it is wide");
    for (foreseen, measured) in foreseen.iter().zip(&measured.plain) {
        assert_eq!(foreseen.tensor, measured.tensor);
        for (a, b) in foreseen.choices.iter().zip(&measured.choices) {
            assert_eq!((a.format, a.bytes), (b.format, b.bytes), "{}", foreseen.tensor);
        }
    }
    // Narrow formats with blocks of 256 are there, and what they lose is foreseen.
    let total = |of: &[Sensitivity], format: &str| -> f64 {
        let choices = of.iter().map(|t| t.choices.iter().find(|c| c.format.name == format));
        choices.map(|c| c.expect("256 divides all rows").divergence).sum()
    };
    for format in ["Q3_K", "IQ2_XS"] {
        let ratio = total(&foreseen, format) / total(&measured.plain, format);
        assert!((0.5..2.0).contains(&ratio), "{format}: {ratio}");
    }
}

/// Text of which there is something to learn: each token is the one after the token before.
fn counting(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let vocab = Model::load(checkpoint).unwrap().config().vocab_size as u32;
    sequences(checkpoint).iter().map(|s| (0..s.len() as u32).map(|i| (s[0] + i) % vocab).collect()).collect()
}

/// The model on a format's grid, and from there a little along the gradients of the loss on such text.
fn trained_away_from(format: &str, checkpoint: &Checkpoint, folder: &Path) -> Checkpoint {
    let [toml, packed, path] = ["mix.toml", "packed.gguf", "trained.gguf"].map(|name| folder.join(name));
    std::fs::write(&toml, format!("default = \"{format}\"\nhead = \"{format}\"\n")).unwrap();
    let mix = Mix::named(toml.to_str().unwrap()).unwrap();
    Plan::new(checkpoint, &mix).unwrap().write(&packed, Method::Nearest, &mut |_| ()).unwrap();
    let packed = Checkpoint::open(&packed).unwrap();
    let model = Model::load(&packed).unwrap();
    let sequence = |tokens: Vec<u32>| Sequence { learned: vec![true; tokens.len()], tokens, told: Vec::new() };
    let sequences = counting(checkpoint).into_iter().map(sequence).collect();
    let spec = SourceSpec { category: "random".into(), path: PathBuf::new(), weight: None };
    let sources = [Source { spec, sequences, unanswered: (0, 0), cut: 0 }];
    let mut weights = Parameters::of(&packed).unwrap();
    TextTask::new(&model, &sources, 8, 1).pass(0, &mut weights).unwrap();
    for variable in weights.variables_mut() {
        let size = variable.values.iter().map(|v| v.abs()).sum::<f32>() / variable.values.len() as f32;
        // Less than half a step of four bits.
        let learned = variable.gradient.iter().map(|g| -0.03 * size * g.signum());
        variable.values.iter_mut().zip(learned).for_each(|(v, learned)| *v += learned);
    }
    students::write(&packed, &weights, Format::f32(), packed.step("train"), &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

#[test]
fn a_grid_that_a_model_was_trained_away_from_is_dearer() {
    let (folder, random) = (tempfile::tempdir().unwrap(), checkpoint("llama"));
    let trained = trained_away_from("Q4_1", &random, folder.path());
    let dearer = |checkpoint: &Checkpoint, formats: [&str; 2]| -> Vec<&'static str> {
        let tensors = possible(checkpoint);
        let format = |at: usize| Format::by_name(formats[at % 2]).unwrap();
        let of = |(at, tensor): (usize, &Sensitivity)| tensor.choices.iter().find(|c| c.format == format(at)).copied();
        let choices: Vec<Choice> = tensors.iter().enumerate().map(|choice| of(choice).unwrap()).collect();
        let sequences = counting(checkpoint);
        let mut coherence = Coherence::of(checkpoint, &sequences).unwrap();
        let dearer = coherence.dearer(&tensors, &choices, &mut |_, _| ());
        dearer.unwrap().iter().map(|dearer| dearer.format.name).collect()
    };
    let sequences = counting(&trained);
    let times = |model: &Checkpoint, format: &str| {
        Coherence::of(model, &sequences).unwrap().times(Format::by_name(format).unwrap()).unwrap()
    };
    // The grid, one that is twice as fine, and others; the same of a model that was not trained.
    for (format, least, most) in [("Q4_1", 3.0, 1000.0), ("Q4_0", 0.4, 2.5), ("Q8_0", 0.4, 2.5), ("IQ4_NL", 0.4, 2.5)] {
        let [trained, random] = [&trained, &random].map(|model| times(model, format));
        assert!((least..most).contains(&trained) && (0.4..2.5).contains(&random), "{format}: {trained}, {random}");
    }
    assert_eq!(dearer(&trained, ["Q4_1", "Q4_1"]), ["Q4_1"]);
    assert_eq!(dearer(&trained, ["Q4_1", "Q4_0"]), ["Q4_1"]);
    for (model, formats) in [(&trained, ["Q4_0", "Q8_0"]), (&random, ["Q4_1", "Q4_0"])] {
        assert_eq!(dearer(model, formats), [""; 0], "{formats:?}");
    }
}

#[test]
fn budgets_are_kept_and_used() {
    let checkpoint = checkpoint("llama");
    let (measured, file_bytes) = (measured(&checkpoint), file_bytes(&checkpoint));
    let largest = measured.iter().flat_map(|t| &t.choices).map(|c| c.bytes).max().unwrap();
    let at = |budget: Budget| budget.allocate(&checkpoint, weights(&checkpoint), &measured, &file_bytes);
    let least = match at(Budget::File(1000)).unwrap_err() {
        Error::Bytes { least, .. } => least,
        error => panic!("{error}"),
    };
    for fit in [least, least + 1, least + 5000, least + 20_000] {
        let bytes = file_bytes(&at(Budget::File(fit)).unwrap().mix).unwrap();
        assert!(bytes <= fit && bytes + largest > fit, "{bytes} for {fit}");
    }
    for bits in [4.5, 5.0, 8.0] {
        let mix = at(Budget::Bits(bits)).unwrap().mix;
        let used = Plan::new(&checkpoint, &mix).unwrap().bits_per_weight();
        assert!(used <= bits && used > bits - 0.7, "{used} for {bits}");
    }
    let error = at(Budget::Bits(1.0)).unwrap_err();
    assert!(matches!(error, Error::Bits { least, .. } if least > 2.0), "{error}");
    // With room for everything nothing is lost: half precision for what is wider.
    let divergence = at(Budget::Bits(32.0)).unwrap().divergence();
    assert!(divergence < 1e-5, "{divergence}");
}

#[test]
fn what_is_packed_already_is_not_packed_looser() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q4.gguf");
    Plan::new(&checkpoint("llama"), Mix::by_name("Q4_0").unwrap())
        .unwrap()
        .write(&path, Method::Nearest, &mut |_| ())
        .unwrap();
    let packed = Checkpoint::open(&path).unwrap();
    let allocation =
        Budget::Bits(16.0).allocate(&packed, weights(&packed), &measured(&packed), &file_bytes(&packed)).unwrap();
    let config = bantam_checkpoint::Config::of(&packed).unwrap();
    for (tensor, target) in packed.tensors().iter().zip(allocation.mix.assign(packed.tensors(), &config).unwrap()) {
        assert_eq!(target.format, tensor.format, "{}", tensor.name);
    }
    assert_eq!(allocation.divergence(), 0.0);
}

/// A model whose ways up, of feed-forward layers, are in MXFP4, which is only read.
fn with_read_only(folder: &Path) -> Checkpoint {
    /// The exponent of blocks whose weights are of the size of the others'.
    const EXPONENT: u8 = 121;
    let (model, mxfp4) = (checkpoint("llama"), Format::by_name("MXFP4").unwrap());
    let packed = |t: &TensorInfo| match t.name.ends_with("ffn_up.weight") {
        true => TensorInfo { format: mxfp4, ..t.clone() },
        false => t.clone(),
    };
    let tensors: Vec<TensorInfo> = model.tensors().iter().map(packed).collect();
    let path = folder.join("mxfp4.gguf");
    let mut writer = GgufWriter::create(&path, model.metadata(), &tensors).unwrap();
    let mut random = SplitMix64::new(7);
    for tensor in &tensors {
        if tensor.format == mxfp4 {
            let byte = |i: usize| if i.is_multiple_of(mxfp4.bytes) { EXPONENT } else { random.below(256) as u8 };
            writer.write(&(0..tensor.bytes()).map(byte).collect::<Vec<u8>>()).unwrap();
        } else {
            writer.write(&model.data(&tensor.name).unwrap()).unwrap();
        }
    }
    writer.finish().unwrap();
    Checkpoint::open(&path).unwrap()
}

#[test]
fn what_can_only_be_read_is_copied_or_rounded_to_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let model = with_read_only(folder.path());
    let is_read_only = |format: &Format| format.encode.is_none();
    let Measured { plain, widened } = measured_of(&model);
    for tensor in &plain {
        let kept: Vec<f64> = tensor.choices.iter().filter(|c| is_read_only(c.format)).map(|c| c.divergence).collect();
        let expected: &[f64] = if tensor.tensor.ends_with("ffn_up.weight") { &[0.0] } else { &[] };
        assert_eq!(kept, expected, "{}", tensor.tensor);
    }
    // As a whole: what is kept is not rounded, and nothing else can be rounded so.
    let kept =
        |tensor: &Sensitivity| *tensor.choices.iter().find(|c| is_read_only(c.format)).unwrap_or(&tensor.choices[0]);
    let choices: Vec<Choice> = plain.iter().map(kept).collect();
    let text = sequences(&model);
    let mut coherence = Coherence::of(&model, &text).unwrap();
    assert!(coherence.dearer(&plain, &choices, &mut |_, _| ()).unwrap().is_empty());
    assert_eq!(coherence.times(choices.iter().map(|c| c.format).find(|f| is_read_only(f)).unwrap()).unwrap(), 1.0);
    // In the wider model they are plain numbers, and what stays as it is is that.
    for tensor in widened.expect("its rows are short") {
        assert!(tensor.choices.iter().all(|c| !is_read_only(c.format)), "{}", tensor.tensor);
        let stays = if tensor.tensor.ends_with("ffn_up.weight") { "F32" } else { "BF16" };
        assert!(tensor.choices.iter().any(|c| c.format.name == stays && c.divergence == 0.0), "{}", tensor.tensor);
    }

    let at = |bits: f64| Budget::Bits(bits).allocate(&model, weights(&model), &plain, &file_bytes(&model));
    let Err(Error::Bits { least, .. }) = at(1.0) else { panic!("no format is as narrow") };
    let text = sequences(&model);
    for method in [Method::Nearest, Method::Gptq(&text), Method::Scaling(&text)] {
        // With room for eight bits, others are rounded beside what is kept.
        for (bits, is_kept) in [(9.0, true), (least + 0.001, false)] {
            let (path, mix) = (folder.path().join("out.gguf"), at(bits).unwrap().mix);
            let plan = Plan::new(&model, &mix).unwrap();
            assert!(plan.rounded().any(|t| !t.name.ends_with("ffn_up.weight")), "{bits} bits");
            plan.write(&path, method, &mut |_| ()).unwrap();
            let made = Checkpoint::open(&path).unwrap();
            for tensor in model.tensors().iter().filter(|t| is_read_only(t.format)) {
                let same = *model.data(&tensor.name).unwrap() == *made.data(&tensor.name).unwrap();
                assert_eq!(same, is_kept, "{} by {} at {bits} bits", tensor.name, method.name());
                assert_eq!(is_read_only(made.tensor(&tensor.name).unwrap().format), is_kept, "{}", tensor.name);
            }
        }
    }
}

#[test]
fn a_mix_of_ones_own_is_what_was_written() {
    let checkpoint = checkpoint("gemma3");
    let allocation = Budget::Bits(5.0)
        .allocate(&checkpoint, weights(&checkpoint), &measured(&checkpoint), &file_bytes(&checkpoint))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, allocation.mix.to_toml()).unwrap();
    let own = Mix::named(path.to_str().unwrap()).unwrap();
    let config = bantam_checkpoint::Config::of(&checkpoint).unwrap();
    let assigned = |mix: &Mix| mix.assign(checkpoint.tensors(), &config).unwrap();
    assert_eq!(assigned(&own), assigned(&allocation.mix));
    assert_eq!((&own.name[..], own.file_type()), ("own", allocation.mix.file_type()));

    for (text, reason) in [("default = \"Q9\"", "Q9"), ("rules = 3", "rules"), ("nonsense", "")] {
        std::fs::write(&path, text).unwrap();
        let error = Mix::named(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("own.toml") && error.contains(reason), "{error}");
    }
    assert!(Mix::named("missing.toml").unwrap_err().to_string().contains("missing.toml"));
}

#[test]
fn what_was_measured_is_not_measured_again() {
    let (checkpoint, folder) = (checkpoint("qwen3"), tempfile::tempdir().unwrap());
    let (path, text) = (folder.path().join("kept.jsonl"), sequences(&checkpoint));
    let all = measured_of(&checkpoint);
    let run = || measure(&checkpoint, &text, Kept::open(&path, &checkpoint, &text).unwrap(), &mut || ()).unwrap();
    assert!(format!("{:?}", run()) == format!("{all:?}"));
    let whole = std::fs::read(&path).unwrap();

    // Cut in the middle of a line, it goes on from the tensor before, to the same bytes.
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(format!("{:?}", run()) == format!("{all:?}"));
    assert!(std::fs::read(&path).unwrap() == whole);

    // A model that was trained further, norms aside, is another.
    let other = folder.path().join("other.gguf");
    let mut writer = GgufWriter::create(&other, checkpoint.metadata(), checkpoint.tensors()).unwrap();
    for info in checkpoint.tensors() {
        let mut data = checkpoint.data(&info.name).unwrap().to_vec();
        let middle = data.len() / 2;
        data[middle] ^= u8::from(info.name == "blk.1.ffn_up.weight");
        writer.write(&data).unwrap();
    }
    writer.finish().unwrap();
    assert!(Kept::open(&path, &Checkpoint::open(&other).unwrap(), &text).is_err());

    let error = |text: &[Vec<u32>]| Kept::open(&path, &checkpoint, text).err().unwrap().to_string();
    assert!(error(&text[1..]).contains("another model, other calibration text"), "{}", error(&text[1..]));
    for (content, reason) in [("{\"sensitivity\":3}\n", "line 1 is damaged"), ("my notes", "no file of sensitivities")]
    {
        std::fs::write(&path, content).unwrap();
        assert!(error(&text).contains(reason), "{}", error(&text));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    let damaged = String::from_utf8(whole).unwrap().replacen("\"Q4_0\"", "\"Q4_9\"", 1);
    std::fs::write(&path, damaged).unwrap();
    assert!(error(&text).contains("line 2 is damaged (unknown number format `Q4_9`"), "{}", error(&text));
}

#[test]
fn a_broken_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    let sound = checkpoint("llama");
    let infos = sound.tensors().to_vec();
    let mut writer = GgufWriter::create(&path, sound.metadata(), &infos).unwrap();
    for info in &infos {
        let mut data = sound.data(&info.name).unwrap().to_vec();
        if info.name == "blk.1.ffn_up.weight" {
            let width = info.bytes() / info.len();
            data[7 * width..][..width].fill(0xff);
        }
        writer.write(&data).unwrap();
    }
    writer.finish().unwrap();
    let broken = Checkpoint::open(&path).unwrap();
    let error = measure(&broken, &sequences(&sound), Kept::nothing(), &mut || ()).unwrap_err().to_string();
    assert!(error.contains("broken.gguf"), "{error}");
}
