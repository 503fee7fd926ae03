//! Experiments on images: what comes out, and runs that are killed.
#![cfg(unix)]

mod common;

use common::Folder;

const EXPERIMENT: &str = "title = 'stripes'\nseeds = [1, 2]
[[network]]\nname = 'large'\nhidden = [32]\nepochs = 20\nbatch = 20\ndropout = [0.1, 0.2]\npaper = 3
[[network]]\nname = 'small'\nhidden = [8]\nepochs = 30\nbatch = 20\nteacher = 'large'\ntemperature = 4.0
[[network]]\nname = 'half'\nhidden = [8]\nepochs = 30\nbatch = 20\nteacher = 'large'\nwithout = [1]
[[network]]\nname = 'same'\nhidden = [32]\nepochs = 1\nlearning_rate = 1e-9\nteacher = 'large'\nfrom_teacher = true\n";

const RUN: &str = "experiment stripes.toml --images . --threads 1";

/// 4 by 4 images of a bright row (its number is the class) in noise, as IDX files.
fn folder() -> Folder {
    let folder = Folder::new();
    for (set, count) in [("train", 400u32), ("t10k", 200)] {
        let mut noise = u64::from(count);
        let mut random = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 33) as u8
        };
        let (mut images, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
        images.extend([count, 4, 4].iter().flat_map(|n| n.to_be_bytes()));
        labels.extend(count.to_be_bytes());
        for i in 0..count {
            let class = (i % 3) as u8;
            labels.push(class);
            images.extend((0..16).map(|at| random() / 2 + if at / 4 == class { 120 } else { 0 }));
        }
        folder.write(&format!("{set}-images-idx3-ubyte"), images);
        folder.write(&format!("{set}-labels-idx1-ubyte"), labels);
    }
    folder.write("stripes.toml", EXPERIMENT);
    folder
}

/// What came out, without the times.
fn outcomes(mut json: serde_json::Value) -> serde_json::Value {
    json.as_array_mut().unwrap().iter_mut().for_each(|outcome| outcome["seconds"] = 0.into());
    json
}

#[test]
fn an_experiment_killed_at_any_moment_ends_with_the_same_errors() {
    let folder = folder();
    let whole = outcomes(folder.json(&format!("{RUN} -o whole")));
    assert_eq!(whole.as_array().unwrap().len(), 8);
    let errors = |i: usize| whole[i]["errors"].as_u64().unwrap();
    assert!(errors(0) < 20 && errors(1) < 40, "{whole}");
    assert!(errors(2) > errors(1) && whole[2]["bias"]["errors"].as_u64() < Some(errors(2)), "{whole}");
    assert_eq!(errors(3), errors(0), "it is its teacher and hardly learns");
    let picture = String::from_utf8(folder.read("whole/soft-labels.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.matches("<path").count() > 3, "{picture}");
    folder.killed(&format!("{RUN} -o killed"), "killed/seed-1.json", &[0, 5, 15, 40, 80]);
    let killed = outcomes(folder.json(&format!("{RUN} -o killed")));
    assert_eq!(whole, killed);
    assert!(folder.read("whole/half-seed-2.gguf") == folder.read("killed/half-seed-2.gguf"));

    let table = folder.succeeds(&format!("{RUN} -o killed"));
    assert!(table.contains("| large | 0.00 M | 3 |") && table.contains("median of 2 seeds"), "{table}");
    // Other seeds and remarks do not make it another experiment.
    let written = |name: &str| {
        let path = folder.path(&format!("killed/{name}-seed-2.gguf"));
        std::fs::metadata(path).unwrap().modified().unwrap()
    };
    let changed = |before: &[std::time::SystemTime; 3]| {
        let names = ["large", "small", "half"];
        std::iter::zip(names, before)
            .filter(|(name, before)| written(name) != **before)
            .map(|(n, _)| n)
            .collect::<Vec<_>>()
    };
    let before = ["large", "small", "half"].map(written);
    folder.write("stripes.toml", EXPERIMENT.replace("seeds = [1, 2]", "# once more\nseeds = [2]"));
    assert!(folder.succeeds(&format!("{RUN} -o killed")).contains("median of 1 seeds"));
    assert_eq!(changed(&before), [""; 0], "what is finished is kept");
    // A student of another temperature is another one; its teacher and the other student are the same.
    folder.write("stripes.toml", EXPERIMENT.replace("temperature = 4.0", "temperature = 5.0"));
    folder.json(&format!("{RUN} -o killed"));
    assert_eq!(changed(&before), ["small"]);
    let before = ["large", "small", "half"].map(written);
    folder.write("stripes.toml", EXPERIMENT.replace("epochs = 20", "epochs = 1"));
    let other = outcomes(folder.json(&format!("{RUN} -o killed")));
    assert_eq!(changed(&before), ["large", "small", "half"], "students of another teacher are others");
    assert_ne!(whole, other);
    // What was saved of a network as it was said to be before is begun anew.
    std::fs::write(folder.path("killed/small-seed-1.training"), folder.read("killed/small-seed-1.gguf")).unwrap();
    folder.write("stripes.toml", EXPERIMENT);
    assert_eq!(outcomes(folder.json(&format!("{RUN} -o killed"))), whole);
    let mut labels = folder.read("t10k-labels-idx1-ubyte");
    labels[8..].reverse();
    folder.write("t10k-labels-idx1-ubyte", labels);
    let relabelled = outcomes(folder.json(&format!("{RUN} -o whole")));
    assert_ne!(whole, relabelled, "nor are those of other images");
    folder.write("whole/seed-1.json", "{");
    folder.refuses(&format!("{RUN} -o whole"), &["seed-1.json", "another version's"]);
}
