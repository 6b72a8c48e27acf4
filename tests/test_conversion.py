"""From GGUF to a model folder: files and weights on tiny models, then the real models against what llama.cpp makes of the same files.

The golden values were written by scripts/golden_llamacpp.py. Measured when they were made (24 prompts in all): the most probable token is
the same in all; the logarithms of llama.cpp's best ten differ by 0.49 at most, their divergence by 0.016: it computes with activations of
8 bits. The bounds below leave room for another processor's order of sums.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Format
from gguf.quants import dequantize, quantize
from golden.texts import PROMPTS, STRUCK, texts
from golden.tiny_gguf import write_gemma, write_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from gistdemo.model import conversion
from gistdemo.model.conversion import convert
from gistdemo.model.embedded import EMBEDDED, is_ready
from gistdemo.model.fetching import is_disk_full
from gistdemo.model.gguf_file import GgufFile
from gistdemo.model.pretrained import no_bars
from gistdemo.settings import Settings

GOLDEN = json.loads((Path(__file__).parent / "golden" / "llamacpp.json").read_text(encoding="utf-8"))
MAX_LOG_DIFFERENCE, MAX_DIVERGENCE, CLOSE_CALL = 0.6, 0.03, 0.35


def quiet(message: str, fraction: float) -> None:
    pass


def ids_of(tokenizer, text: str) -> list[int]:
    """A user's text as `prompts` encodes it: literal."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


# --- GGUF files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Every kind of value, and tensors of several formats and numbers of axes."""
    file = tmp_path_factory.mktemp("gguf") / "mixed.gguf"
    writer = gguf.GGUFWriter(file, "nothing")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "日本 ½\n")
    writer.add_array("numbers", [3, 1, 2])
    writer.add_array("floats", [0.5, -1.25])
    writer.add_array("texts", ["a", "", "Ġ🙂"])
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer.add_tensor("flat", values[0])
    writer.add_tensor("half", values.astype(np.float16))
    writer.add_tensor("cube", values.reshape(2, 2, 64))
    for kind in (Format.Q8_0, Format.Q4_1, Format.Q5_0):
        writer.add_tensor(kind.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_metadata_is_what_the_gguf_package_reads(mixed):
    reader, file = gguf.GGUFReader(mixed), GgufFile(mixed)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert file.metadata == theirs and len(theirs) == 17
    assert {name: type(value) for name, value in file.metadata.items()} == {name: type(value) for name, value in theirs.items()}


def test_tensors_are_what_the_gguf_package_reads(mixed):
    reader, file = gguf.GGUFReader(mixed), GgufFile(mixed)
    assert file.tensors == tuple(tensor.name for tensor in reader.tensors) and len(file.tensors) == 6
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values = file.tensor(tensor.name)
        assert file.shape(tensor.name) == values.shape == shape and values.dtype == np.float32
        np.testing.assert_array_equal(values, dequantize(tensor.data, tensor.tensor_type).reshape(shape))


def test_a_file_that_ends_early_is_refused_wherever_it_ends(mixed, tmp_path):
    whole, cut = mixed.read_bytes(), tmp_path / "cut.gguf"
    assert len(whole) % 32 == 0  # the last tensor is padded: a file without that padding is still whole
    for length in [*range(0, len(whole) - 32, 7), len(whole) - 33]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"'cut\.gguf' (is empty|ends inside)"):
            GgufFile(cut)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "'x.gguf' is empty"),
        (b"PK\x03\x04" + bytes(60), "'x.gguf' cannot be read: it is no GGUF file of version 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "'x.gguf' cannot be read: it is no GGUF file of version 2 or 3"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "'x.gguf' cannot be read: it is no GGUF file of version 2 or 3"),  # big endian
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 99), "'x.gguf' cannot be read: a value has the unknown type 99"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 6, 2**62), "'x.gguf' ends inside its header"),
        (struct.pack("<4sIQQQ1sIQIQ", b"GGUF", 3, 1, 0, 1, b"t", 1, 32, 77, 0), "'x.gguf' cannot be read: 77 is not a valid GGML"),
    ],
)
def test_what_is_no_gguf_file_is_refused_by_name(content, words, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        GgufFile(tmp_path / "x.gguf")
    assert str(caught.value).startswith(words)


# --- tiny models -----------------------------------------------------------------------------------------------------


class Made:
    """A tiny model, written as GGUF and converted, and the model it was written from."""

    def __init__(self, write, folder: Path):
        self.gguf, self.folder = folder / "tiny.gguf", folder / "model"
        self.original = write(self.gguf)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of arrays that cannot be written to
            convert(self.gguf, self.folder, "tiny", quiet)
        with no_bars():
            self.model, self.info = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, output_loading_info=True)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Made:
    return Made(write_llama, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Made:
    return Made(write_gemma, tmp_path_factory.mktemp("gemma"))


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_the_converted_model_computes_what_the_original_does(family, request):
    made = request.getfixturevalue(family)
    assert not any(made.info.values())
    ids = torch.randint(0, 250, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, original = made.model(ids).logits, made.original(ids).logits
    torch.testing.assert_close(ours[..., : original.shape[-1]], original, atol=2e-4, rtol=2e-4)
    assert ours.std() > 0.5  # random numbers that say something


def test_rows_of_q_and_k_change_places_as_llama_cpp_had_them(llama):
    """One head of 8 rows: transformers turns row i with row i + 4, llama.cpp row 2i with row 2i + 1. Every other weight stays."""
    tensor = conversion._llama_tensor(llama.original.config)
    rows = np.arange(2 * 8, dtype=np.float32)[:, None].repeat(3, axis=1)  # two heads of k
    name, values = tensor("blk.1.attn_k.weight", rows)
    assert name == "model.layers.1.self_attn.k_proj.weight"
    assert values[:, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
    for part in ("attn_v", "attn_output", "ffn_up", "ffn_norm"):
        assert tensor(f"blk.1.{part}.weight", rows)[1] is rows


def test_norms_of_gemma_lose_the_one_that_the_file_adds(gemma):
    ours, original = gemma.model.state_dict(), gemma.original.state_dict()
    norms = [name for name in original if "norm" in name]
    assert len(norms) == 7 * 6 + 1
    for name in norms:
        torch.testing.assert_close(ours[name], original[name], atol=1e-6, rtol=0)
    for name in set(original) - set(norms):
        assert torch.equal(ours[name], original[name]), name


def test_sizes_and_windows_of_gemma_come_from_the_file(gemma):
    ours, original = gemma.model.config, gemma.original.config
    for name in ("layer_types", "sliding_window", "rope_parameters", "head_dim", "query_pre_attn_scalar", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(original, name), name
    assert ours.layer_types.count("sliding_attention") == 6 and ours.tie_word_embeddings


def test_llama_tokens_split_digits_first_and_add_no_bos(llama):
    tokenizer = llama.tokenizer
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]  # transformers' GGUF reader alone gives ["Ċ", "Ċ", "1", "."]
    assert tokenizer("").input_ids == [] and (tokenizer.bos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>")
    prompt = "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer(prompt, add_special_tokens=False).input_ids.count(1) == 1 and 1 not in ids_of(tokenizer, prompt)
    for text in ("  two  spaces ", "don 't , stop .", "héllo 🙂 👩‍👧 日本語 ½", "\n\n1. x\n\n2. y\t", prompt):
        assert tokenizer.decode(ids_of(tokenizer, text)) == text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abcd", ["abc", "d"]),  # a + bc; ab + c would be the same
        ("abbc", ["ab", "bc"]),
        (" abc", ["▁a", "bc"]),  # ▁a has a better score than abc
        ("ab c", ["ab", "▁", "c"]),
        (" abab", ["▁", "ab", "ab"]),
        (" acab", ["▁a", "c", "ab"]),
        ("a    b", ["a", "▁▁", "▁▁", "b"]),
        ("d\n\nd\n", ["d", "\n\n", "d", "\n"]),
        ("<b>é", ["<b>", "<0xC3>", "<0xA9>"]),  # no piece: bytes
        ("<eos>", ["<eo", "s>"]),  # control tokens never come from text
        ("", []),
    ],
)
def test_gemma_tokens_are_joined_by_score(text, tokens, gemma):
    found = ids_of(gemma.tokenizer, text)
    assert gemma.tokenizer.convert_ids_to_tokens(found) == tokens
    assert gemma.tokenizer.decode(found) == text


def test_gemma_prompts_start_with_bos(gemma):
    tokenizer = gemma.tokenizer
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id == 2 and tokenizer("<eos>", add_special_tokens=False).input_ids == [1]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token, tokenizer.chat_template) == ("<eos>", "<pad>", "<unk>", None)


# --- files that cannot be converted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data, places: data.update({"general.architecture": "rwkv7"}), "holds a model of the family 'rwkv7'; llama and gemma3"),
        (lambda data, places: data.pop("general.architecture"), "holds a model of the family None; llama and gemma3"),
        (lambda data, places: data.pop("llama.block_count"), "'tiny.gguf' lacks 'llama.block_count'"),
        (lambda data, places: data.update({"llama.attention.head_count": "four"}), "field 'num_attention_heads': TypeError: Field"),
        (
            lambda data, places: data.update({"tokenizer.ggml.bos_token_id": 9999}),
            "'tiny.gguf' cannot be converted: IndexError: list index out of range",
        ),
        (lambda data, places: data.update({"tokenizer.ggml.pre": "other"}), "the pre-tokenizer 'other' is not known; smollm is"),
        (lambda data, places: data.update({"tokenizer.ggml.merges": ["no where"]}), "Token `no` out of vocabulary"),
        (lambda data, places: data["tokenizer.ggml.token_type"].pop(), "zip() argument 2 is shorter"),
        (
            lambda data, places: places.update({"blk.0.odd.weight": places["output_norm.weight"]}),
            "the tensor 'blk.0.odd.weight' is not known",
        ),
        (lambda data, places: places.update({"odd": places["output_norm.weight"]}), "the tensor 'odd' is not known"),
    ],
)
def test_a_damaged_file_is_a_value_error_that_says_what_is_wrong(change, words, llama, tmp_path, monkeypatch):
    class Damaged(GgufFile):
        def __init__(self, path):
            super().__init__(path)
            change(self.metadata, self._places)

    monkeypatch.setattr(conversion, "GgufFile", Damaged)
    with pytest.raises(ValueError) as caught:
        convert(llama.gguf, tmp_path / "model", "tiny", quiet)
    assert words in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_is_an_os_error_also_where_the_tokenizers_library_writes(llama, tmp_path, monkeypatch):
    """It raises a bare Exception."""
    monkeypatch.setattr(
        conversion.transformers.PreTrainedTokenizerFast, "save_pretrained", lambda self, folder: self.backend_tokenizer.save("/dev/full")
    )
    with pytest.raises(OSError) as caught:
        convert(llama.gguf, tmp_path / "model", "tiny", quiet)
    assert is_disk_full(caught.value)


def test_other_errors_of_the_system_pass_unchanged(llama, tmp_path, monkeypatch):
    (tmp_path / "model").write_text("a file where a folder is made")
    with pytest.raises(FileExistsError):
        convert(llama.gguf, tmp_path / "model", "tiny", quiet)
    monkeypatch.setattr(conversion, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
    with pytest.raises(OSError) as caught:
        convert(llama.gguf, tmp_path / "other", "tiny", quiet)
    assert is_disk_full(caught.value)


# --- the real models against llama.cpp -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(EMBEDDED))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def real(name) -> Path:
    """The converted folder of this user."""
    settings = Settings.from_env()
    if not is_ready(EMBEDDED[name], settings):
        pytest.skip(f"{name} is not fetched: python -m gistdemo.model.embedded {name}")
    return settings.cache_dir / "backbones" / name


@pytest.fixture(scope="module")
def tokenizer(real):
    return AutoTokenizer.from_pretrained(real)


def test_the_golden_values_are_of_these_models_and_texts(name):
    every = texts()
    assert len(every) == len(set(every)) == 1000
    assert hashlib.sha256(json.dumps(every).encode()).hexdigest() == GOLDEN["texts_sha256"], "run scripts/golden_llamacpp.py again"
    golden = GOLDEN["models"][name]
    assert golden["gguf_sha256"] == EMBEDDED[name].gguf_sha256, "run scripts/golden_llamacpp.py again"
    assert (len(golden["digests"]), len(golden["next"])) == (1000, len(PROMPTS))


@pytest.mark.weights
def test_1000_texts_become_the_tokens_that_llama_cpp_finds(name, tokenizer):
    """One exception: '</s>' is no end in Gemma's files, but the HTML tag, a piece like '<s>'. llama.cpp knows ends of turns by their
    names and takes it for one; the file's own word is followed here, as Google's tokenizer does. The text is the same either way."""
    golden = GOLDEN["models"][name]
    wrong = []
    for number, (text, digest) in enumerate(zip(texts(), golden["digests"], strict=True)):
        found = ids_of(tokenizer, text)
        if hashlib.sha256(json.dumps(found).encode()).hexdigest()[:8] != digest:
            wrong.append((text, found, golden["ids"].get(str(number), "not kept: run scripts/golden_llamacpp.py")))
    if name == "gemma-3-270m":
        exception = [text for text, _, _ in wrong if text == STRUCK]
        assert exception and tokenizer.tokenize(STRUCK) == ["was", "▁", "<s>", "struck", "</s>", "▁out", "</s>"]
        wrong = [entry for entry in wrong if entry[0] != STRUCK]
    assert not wrong, f"{len(wrong)} texts, the first (text, ours, llama.cpp's): {wrong[0]}"


@pytest.mark.weights
def test_every_text_comes_back_from_its_tokens(tokenizer):
    for text in texts():
        back = tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False)
        assert back == text.replace("\u2581", " ") or back == text


@pytest.mark.weights
def test_no_text_of_a_user_becomes_a_control_token(name, tokenizer):
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert len(special) == {"smollm2-135m-instruct": 17, "gemma-3-270m": 6249}[name]
    for text in texts():
        assert not special & set(ids_of(tokenizer, text)), text


def next_logs(folder: Path, prompts: list[list[int]]) -> torch.Tensor:
    """Logarithms of the next token's probabilities, one row a prompt. Filled on the right, which no earlier position sees."""
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    with torch.inference_mode():
        hidden = model.model(ids).last_hidden_state
        last = hidden[torch.arange(len(prompts)), [len(prompt) - 1 for prompt in prompts]]
        return model.lm_head(last).double().log_softmax(-1)


@pytest.mark.weights
def test_next_tokens_are_as_probable_as_llama_cpp_finds(name, real, tokenizer):
    every = GOLDEN["models"][name]["next"]
    for prompt, golden, logs in zip(PROMPTS, every, next_logs(real, [golden["ids"] for golden in every]), strict=True):
        assert tokenizer(prompt).input_ids == golden["ids"], prompt
        best = [token for token, _ in golden["top"]]
        theirs, ours = torch.tensor([log for _, log in golden["top"]], dtype=torch.float64), logs[best]
        p, q = theirs.log_softmax(0), ours.log_softmax(0)
        assert logs.argmax() == best[0] or logs.max() - logs[best[0]] < CLOSE_CALL, prompt
        assert (ours - theirs).abs().max() < MAX_LOG_DIFFERENCE, prompt
        assert (p.exp() * (p - q)).sum() < MAX_DIVERGENCE, prompt
