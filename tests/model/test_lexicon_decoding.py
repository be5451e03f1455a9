"""Decoding with a lexicon: the words of a line, case, and what happens if nothing is possible."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.lexicon import Lexicon
from raycrnn.model import ctc, lexicon_decoding
from raycrnn.model.decoding import LineDecoder, Outputs
from raycrnn.model.lexicon_decoding import CodedLexicon
from tests.language.test_word_automaton import is_allowed

LETTERS = Alphabet(("a", "b", " "))


def lexicon(alphabet: Alphabet, *entries: str) -> CodedLexicon:
    return CodedLexicon(Lexicon(tuple(map(tuple, entries))), alphabet)


def spelled(alphabet: Alphabet, text: str, certainty: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a line in which the network is nearly certain of a text."""
    codes = [code for unit in text for code in (alphabet.blank, *alphabet.encode([unit]))] + [alphabet.blank]
    logits_TBK = torch.zeros(len(codes), 1, len(alphabet) + 1)
    logits_TBK[range(len(codes)), 0, codes] = certainty
    return logits_TBK.log_softmax(2), torch.tensor([len(codes)])


def read_words(alphabet: Alphabet, entries: tuple[str, ...], text: str) -> str:
    [[best, *_]] = lexicon(alphabet, *entries).with_words(*spelled(alphabet, text), 50, 2)
    return "".join(alphabet.decode(best.codes))


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=4, unique=True),
)
def test_the_best_texts_with_words_of_the_lexicon_are_found(seed, frames, entries):
    log_probs_TBK = (torch.randn(frames, 1, 4, generator=torch.Generator().manual_seed(seed)) * 2).log_softmax(2)
    found = lexicon(LETTERS, *entries).with_words(log_probs_TBK, torch.tensor([frames]), 500, 3)
    coded = {tuple(LETTERS.encode(entry)) for entry in entries}
    texts = [text for length in range(frames + 1) for text in itertools.product(range(3), repeat=length)]
    allowed = [text for text in texts if is_allowed(text, coded, (False, False, True))]
    log_probs = [float(ctc.log_likelihoods(log_probs_TBK, torch.tensor([frames]), [text])) for text in allowed]
    expected = sorted((log_prob for log_prob in log_probs if log_prob > -1e6), reverse=True)[:3]
    assert [path.log_prob for path in found[0]] == pytest.approx(expected, abs=1e-3)
    assert {path.codes for path in found[0]} <= set(allowed)


@pytest.mark.parametrize(
    ("entries", "image", "text"),
    [
        (("haus",), "haus", "haus"),
        (("haus",), "Haus", "Haus"),
        (("haus",), "HAUS", "HAUS"),
        (("Haus",), "haus", "Haus"),
        (("haus",), "haun", "haus"),
        (("haus", "hausen"), "haus-hausen 12.", "haus-hausen 12."),
        (("huß",), "HUSS", "HUSS"),
        (("haus",), "1 haus 2. 3", "1 haus 2. 3"),
        (("haus", "a’n"), "a’n haus", "a’n haus"),
        (("haus",), "’haus’", "’haus’"),
    ],
)
def test_the_words_of_a_line_are_entries(entries, image, text):
    alphabet = Alphabet(tuple(dict.fromkeys("hausenß’ -.HAUSEN123")))
    assert read_words(alphabet, entries, image) == text


def test_without_a_possible_text_the_complete_words_of_the_greedy_path_remain():
    log_probs_TBK, frames_B = spelled(LETTERS, "a bb", certainty=200.0)
    # The beam has room for one prefix, which ends within a word.
    [[path]] = lexicon(LETTERS, "a", "bba").with_words(log_probs_TBK, frames_B, 1, 1)
    assert LETTERS.decode(path.codes) == ["a", " "]
    assert path.log_prob == pytest.approx(float(ctc.log_likelihoods(log_probs_TBK, frames_B, [path.codes])))


def test_without_a_possible_entry_the_text_is_empty():
    log_probs_TBK, frames_B = spelled(LETTERS, "ab")
    [[path]] = lexicon(LETTERS, "a" * 9).best_entries(log_probs_TBK, frames_B, 2, None)
    assert path.codes == ()
    assert path.log_prob == pytest.approx(float(log_probs_TBK[:, 0, -1].sum()), abs=1e-3)
    assert not path.is_in_lexicon


def test_without_a_near_entry_a_line_is_decoded_without_the_lexicon():
    settings = config.Decoding(lexicon_distance=1)
    decoder = LineDecoder(settings, LETTERS, lexicon=lexicon(LETTERS, "bbbb", "ba"))
    lines = [spelled(LETTERS, text) for text in ("ab a", "b", "bbab")]
    log_probs_TBK = torch.nn.utils.rnn.pad_sequence([log_probs_T1K for log_probs_T1K, _ in lines])[:, :, 0]
    frames_B = torch.cat([frames for _, frames in lines])
    decoded = decoder.decode(Outputs((0, 1, 2), log_probs_TBK, frames_B))
    assert ["".join(LETTERS.decode(paths[0].codes)) for paths in decoded] == ["ab a", "ba", "bbbb"]
    assert [paths[0].is_in_lexicon for paths in decoded] == [False, True, True]


def test_entries_of_text_from_right_to_left_are_in_the_order_of_the_image():
    hebrew = Alphabet(tuple("אבג 12"), "rtl")
    log_probs_TBK, frames_B = spelled(hebrew, "גבא")
    [[path, *_]] = lexicon(hebrew, "אבג", "גבא").best_entries(log_probs_TBK, frames_B, 2, None)
    assert "".join(unit for _, code in hebrew.in_logical_order(path.codes) for unit in hebrew.decode([code])) == "אבג"
    [[path, *_]] = lexicon(hebrew, "אבג").with_words(*spelled(hebrew, "12 גבא"), 20, 2)
    assert "".join(hebrew.decode(path.codes)) == "12 גבא"


def test_a_lexicon_of_several_calls_or_models_is_coded_once(caplog):
    configuration = config.parse({"data": {"csv_files_train": "lines.csv"}})
    first, again = (lexicon_decoding.coded(["ab", "ba", "xyz"], configuration, LETTERS) for _ in range(2))
    assert first is again
    assert first.lexicon.entries == (("a", "b"), ("b", "a"))
    assert caplog.text.count("1 of 3 entries are left out") == 1
    assert lexicon_decoding.coded(["ab", "ba"], configuration, LETTERS) is not first
