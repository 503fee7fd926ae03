// What unmodified llama.cpp computes, in the form that crates/nn/examples/logits.rs gives for bantam:
//
//     llama_logits MODEL TOKENS OUT             the logits after each of the tokens, in chunks of up to 512 fresh contexts
//     llama_logits MODEL TOKENS OUT --no-flash  the same by the other of its two ways to compute attention
//     llama_logits MODEL TOKENS --greedy N      N tokens that follow, each the likeliest
//
// TOKENS is a file of token ids, 32 bits little endian; OUT receives 32-bit floats, [tokens, vocabulary].

#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

static const int CHUNK = 512;

static void evaluate(llama_context * context, const std::vector<llama_token> & tokens, int start, int count, int position,
                     bool all) {
    llama_batch batch = llama_batch_init(count, 0, 1);
    for (int i = 0; i < count; i++) {
        batch.token[i]     = tokens[start + i];
        batch.pos[i]       = position + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = all || i == count - 1;
    }
    batch.n_tokens = count;
    if (llama_decode(context, batch) != 0) {
        fprintf(stderr, "llama_decode failed\n");
        exit(1);
    }
    llama_batch_free(batch);
}

int main(int argc, char ** argv) {
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: llama_logits MODEL TOKENS (OUT [--no-flash] | --greedy N)\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 1;
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));

    std::ifstream file(argv[2], std::ios::binary | std::ios::ate);
    std::vector<llama_token> tokens(file.tellg() / sizeof(llama_token));
    file.seekg(0);
    file.read(reinterpret_cast<char *>(tokens.data()), tokens.size() * sizeof(llama_token));

    const bool greedy = std::string(argv[3]) == "--greedy";
    const int  follow = greedy ? atoi(argv[4]) : 0;
    llama_context_params params = llama_context_default_params();
    params.n_ctx     = greedy ? tokens.size() + follow : CHUNK;
    params.n_batch   = params.n_ctx;
    params.n_ubatch  = CHUNK;
    params.n_threads = params.n_threads_batch = 1; // its barriers spin: more threads crawl on a busy machine
    if (!greedy && argc == 5) params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return 1;

    if (greedy) {
        int position = tokens.size();
        evaluate(context, tokens, 0, tokens.size(), 0, false);
        for (int i = 0; i < follow; i++) {
            const float * logits = llama_get_logits_ith(context, -1);
            const llama_token next = std::max_element(logits, logits + vocabulary) - logits;
            printf("%d ", next);
            evaluate(context, {next}, 0, 1, position++, false);
        }
        printf("\n");
        return 0;
    }
    std::ofstream out(argv[3], std::ios::binary);
    for (size_t start = 0; start < tokens.size(); start += CHUNK) {
        const int count = std::min<size_t>(CHUNK, tokens.size() - start);
        llama_memory_clear(llama_get_memory(context), true);
        evaluate(context, tokens, start, count, 0, true);
        for (int i = 0; i < count; i++) {
            out.write(reinterpret_cast<const char *>(llama_get_logits_ith(context, i)), sizeof(float) * vocabulary);
        }
    }
    return out ? 0 : 1;
}
