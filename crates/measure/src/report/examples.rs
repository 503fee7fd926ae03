//! Reports made up for tests: one as a real run gives it, and some as no run should.

use crate::results::*;
use bantam_checkpoint::provenance::Training;

fn divergence(kl: f64, perplexity: f64) -> Divergence {
    Divergence {
        tokens: 12_264,
        perplexity: Estimate { mean: perplexity * (1.0 + kl * 0.8), se: perplexity * 0.021 },
        base_perplexity: Estimate { mean: perplexity, se: perplexity * 0.02 },
        perplexity_ratio: Estimate { mean: 1.0 + kl * 0.8, se: 0.0021 },
        kl_divergence: Estimate { mean: kl, se: kl * 0.045 },
        kl_median: kl * 0.3,
        kl_p99: kl * 9.0,
        top1_agreement: Estimate { mean: 1.0 - 0.42 * kl.powf(0.45), se: 0.0031 },
    }
}

fn model(label: &str, megabytes: f64, formats: &[(&str, f64)]) -> ModelSummary {
    ModelSummary {
        label: label.into(),
        path: format!("out/smollm2-135m-{}.gguf", label.to_lowercase()),
        architecture: "llama".into(),
        file_bytes: (megabytes * 1e6) as u64,
        parameters: 134_515_008,
        bits_per_weight: megabytes * 1e6 * 8.0 / 134_515_008.0,
        bytes_by_format: formats.iter().map(|(name, mb)| (name.to_string(), (mb * 1e6) as u64)).collect(),
        quantized_as: None,
        training: vec![],
    }
}

fn choice(task: &str, category: Category, chance: f64, base: f64, lost: usize, gained: usize) -> Choice {
    let questions = 150;
    let accuracy = base - (lost as f64 - gained as f64) / questions as f64;
    let estimate = |p: f64| Estimate { mean: p, se: (p * (1.0 - p) / questions as f64).sqrt() };
    Choice {
        task: task.into(),
        category,
        questions,
        chance,
        accuracy: estimate(accuracy),
        base_accuracy: estimate(base),
        lost,
        gained,
    }
}

fn continuations(damage: usize) -> Vec<Sample> {
    let prompts = [
        (
            "Explain to a child why the sky is blue.",
            "The sky is blue because of the way sunlight meets the air. Sunlight looks white, but it is made of many \
             colours. When it passes through the air, the blue light is scattered in all directions by tiny particles, \
             much more than the red light. So wherever you look, some blue light comes towards you.",
        ),
        (
            "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number. <script>alert('x')</script>\"\"\"\n",
            "    if n <= 1:\n        return n\n    a, b = 0, 1\n    for _ in range(n - 1):\n        a, b = b, a + b\n    return b\n",
        ),
        (
            "A train covers 180 km in 2 hours and 15 minutes. What is its average speed?",
            "To find the average speed, divide the distance by the time. 2 hours and 15 minutes is 2.25 hours. \
             180 / 2.25 = 80, so the average speed is 80 km/h.",
        ),
    ];
    let worn = [
        "scattered more than the other colours are, so blue is what we see.",
        "    return fibonacci(n - 1)\n",
        "= 72 km/h & done",
    ];
    prompts
        .iter()
        .zip(worn)
        .map(|((prompt, base), worse)| {
            let kept = base.char_indices().map(|(at, _)| at).nth(base.chars().count() * (6 - damage.min(6)) / 6);
            let candidate = kept.map_or(base.to_string(), |at| format!("{}{worse}", &base[..at]));
            Sample { prompt: prompt.to_string(), base: base.to_string(), candidate }
        })
        .collect()
}

fn evaluation(label: &str, megabytes: f64, kl: f64, step: usize, formats: &[(&str, f64)]) -> Evaluation {
    let by_category = [
        (Category::Prose, 0.8, 21.4),
        (Category::Chat, 0.7, 14.9),
        (Category::Code, 1.15, 5.8),
        (Category::Math, 1.5, 6.6),
    ];
    Evaluation {
        candidate: model(label, megabytes, formats),
        overall: divergence(kl, 10.6),
        categories: by_category.iter().map(|(c, factor, ppl)| (*c, divergence(kl * factor, *ppl))).collect(),
        choices: vec![
            choice("logical_deduction", Category::Prose, 0.333, 0.38, 2 * step, 2 + step),
            choice("social_iqa", Category::Chat, 0.333, 0.46, 3 * step, step),
            choice("code_line_description", Category::Code, 0.247, 0.575, 4 * step, 1),
            choice("elementary_math_qa", Category::Math, 0.2, 0.31, 4 * step, 2 * step),
        ],
        speed: Some(Speed {
            threads: 2,
            prompt_tokens: 512,
            prefill: 410.0 + 13.0 * step as f64,
            decode: 55.0 + 9.0 * step as f64,
            peak_memory: Some((megabytes * 1e6) as u64 + 61_000_000),
        }),
        samples: continuations(step),
        made_by: vec![
            "read smollm2-135m.gguf: llama, 134,515,008 weights".into(),
            format!("quantize to {label}: without calibration, 30 tensors fall back because 256 does not divide 576"),
        ],
        seconds_to_make: Some(1.4 + 0.9 * step as f64),
    }
}

/// What `bantam shrink` on SmolLM2-135M might give.
pub fn sample() -> Report {
    let mut base = model("smollm2-135m", 269.1, &[("F16", 268.9), ("F32", 0.2)]);
    base.quantized_as = Some("Q4_1, Q8_0".into());
    Report {
        version: "0.1.0".into(),
        date: "2026-11-24T09:12:31Z".into(),
        command: "bantam shrink smollm2-135m.gguf --fit 110MB -o small/".into(),
        machine: Machine {
            processor: "Intel(R) Xeon(R) Processor @ 2.60GHz".into(),
            cores: 2,
            memory: 16_800_000_000,
            features: "AVX-512 VNNI".into(),
        },
        base,
        base_speed: Some(Speed {
            threads: 2,
            prompt_tokens: 512,
            prefill: 380.0,
            decode: 41.2,
            peak_memory: Some(330_000_000),
        }),
        context: 512,
        texts: crate::data::suite("standard")
            .unwrap()
            .texts
            .into_iter()
            .map(|text| TextSource {
                category: text.category,
                name: text.name,
                source: text.source,
                tokens: text.text.len() / 4,
            })
            .collect(),
        evaluations: vec![
            evaluation("Q8_0", 144.8, 0.0011, 0, &[("Q8_0", 142.9), ("F32", 0.2)]),
            evaluation("Q6_K", 138.4, 0.0063, 1, &[("Q8_0", 104.2), ("Q6_K", 34.0), ("F32", 0.2)]),
            evaluation("Q5_K_M", 112.1, 0.0187, 2, &[("Q5_1", 66.0), ("Q6_K", 22.2), ("Q8_0", 20.0), ("F32", 0.2)]),
            evaluation("Q4_K_M", 105.5, 0.0346, 3, &[("Q5_0", 62.0), ("Q6_K", 21.0), ("Q4_K", 19.6), ("F32", 0.2)]),
            evaluation("Q3_K_M", 93.5, 0.0879, 4, &[("IQ4_NL", 60.0), ("Q6_K", 20.3), ("Q3_K", 10.5), ("F32", 0.2)]),
            evaluation("Q2_K", 88.2, 0.27, 6, &[("IQ4_NL", 58.0), ("Q6_K", 20.3), ("Q2_K", 7.5), ("F32", 0.2)]),
        ],
        fit: Some(110_000_000),
        chosen: Some(3),
        kept: ["smollm2-135m-Q4_K_M.gguf".into()].into(),
    }
}

/// Reports that a page must survive: none, one and twelve candidates, no numbers, long names, nothing measured.
pub fn extreme() -> Vec<Report> {
    let one = Report { evaluations: vec![sample().evaluations.remove(3)], chosen: Some(0), fit: None, ..sample() };
    let none = Report { evaluations: vec![], chosen: None, fit: Some(1_000), texts: vec![], ..sample() };
    let mut odd = sample();
    odd.base.label =
        "a-very-long-model-name-that-somebody-thought-of-<b>in</b>-the-night-instruct-v0.3.1-final.gguf".into();
    let values = [f64::NAN, f64::INFINITY, 0.0, -1e-9, 1e-12, 50.0];
    for (evaluation, value) in odd.evaluations.iter_mut().zip(values) {
        evaluation.overall.kl_divergence = Estimate { mean: value, se: value };
        evaluation.overall.perplexity_ratio.mean = value;
        for (_, divergence) in &mut evaluation.categories {
            divergence.kl_divergence.mean = value;
            divergence.top1_agreement.mean = value;
        }
        evaluation.candidate.label = format!("candidate-with-\"quotes\"-&-a-name-much-too-long-for-any-column-{value}");
        evaluation.speed = None;
        evaluation.choices.clear();
        evaluation.samples.clear();
    }
    odd.base_speed = None;
    let losses = [vec![], vec![f32::NAN], vec![2.0], vec![0.0; 3], vec![f32::INFINITY, 1.0, 0.5], vec![1e9, -1.0]];
    for (evaluation, losses) in odd.evaluations.iter_mut().zip(losses) {
        let training = Training { steps: losses.len() as u64, tokens: 0, flops: f64::NAN, losses };
        evaluation.candidate.training = vec![("distill <b>".into(), training)];
    }
    let mut many = sample();
    let copies = many.evaluations.clone();
    for (step, mut copy) in copies.into_iter().enumerate() {
        copy.candidate.label = format!("{} with imatrix", copy.candidate.label);
        copy.candidate.file_bytes -= 300_000;
        copy.overall.kl_divergence.mean *= 0.7;
        many.evaluations.insert(2 * step + 1, copy);
    }
    many.chosen = Some(7);
    let mut bare = sample();
    bare.fit = Some(1);
    bare.chosen = None;
    for evaluation in &mut bare.evaluations {
        evaluation.categories.clear();
        evaluation.candidate.bytes_by_format.clear();
        evaluation.speed = evaluation.speed.map(|speed| Speed { peak_memory: None, ..speed });
    }
    vec![one, none, odd, many, bare]
}
