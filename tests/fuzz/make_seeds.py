#!/usr/bin/env python3
"""Writes the first inputs of the fuzz programs: make_seeds.py CORPUS (tests/fuzz/corpus). What the fuzzers found since lies beside
them. Everything is made here, but the smallest of the golden checkpoints' files."""
import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import sys
import zipfile

corpus = pathlib.Path(sys.argv[1])
golden = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"


def put(program, name, data):
    folder = corpus / program
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


# GGUF -----------------------------------------------------------------------------------------------------------------------
def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, (str, bytes)):
        return struct.pack("<I", 8) + text(v)
    kind, items = v
    body = b"".join(text(i) if kind == 8 else struct.pack({4: "<I", 5: "<i", 6: "<f", 0: "<B"}[kind], i) for i in items)
    return struct.pack("<IIQ", 9, kind, len(items)) + body


def gguf(pairs, tensors):
    """tensors: name, shape in GGUF's order, type (0 f32, 1 f16, 2 Q4_0, 8 Q8_0), bytes."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, v in pairs.items():
        out += text(key) + value(v)
    offset, data = 0, b""
    for name, shape, kind, content in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    return out + b"\0" * (-len(out) % 32) + data


def matrix(name, cols, rows, kind):
    size = {0: 4 * cols, 1: 2 * cols, 2: cols // 32 * 18, 8: cols // 32 * 34}[kind] * rows
    return name, [cols, rows], kind, bytes((i * 37 + 11) % 61 for i in range(size))


def model(architecture, tokenizer):
    a, hidden, inner, heads, vocabulary = architecture + ".", 32, 64, 2, len(tokenizer["tokenizer.ggml.tokens"][1])
    pairs = {"general.architecture": architecture, a + "block_count": 1, a + "embedding_length": hidden, a + "feed_forward_length": inner,
             a + "attention.head_count": heads, a + "attention.head_count_kv": 1, a + "context_length": 64, a + "rope.dimension_count": 16,
             a + "attention.layer_norm_rms_epsilon": 1e-5, a + "rope.freq_base": 10000.0, **tokenizer}
    ones = struct.pack("<f", 1.0) * hidden
    tensors = [matrix("token_embd.weight", hidden, vocabulary, 8), ("output_norm.weight", [hidden], 0, ones), ("blk.0.attn_norm.weight", [hidden], 0, ones),
               ("blk.0.ffn_norm.weight", [hidden], 0, ones), matrix("blk.0.attn_output.weight", hidden, hidden, 1), matrix("blk.0.ffn_down.weight", inner, hidden, 2)]
    if architecture == "llama":
        tensors += [matrix("blk.0.attn_q.weight", hidden, hidden, 2), matrix("blk.0.attn_k.weight", hidden, 16, 2), matrix("blk.0.attn_v.weight", hidden, 16, 8),
                    matrix("blk.0.ffn_gate.weight", hidden, inner, 2), matrix("blk.0.ffn_up.weight", hidden, inner, 2)]
    else:
        tensors += [matrix("blk.0.attn_qkv.weight", hidden, 64, 2), ("blk.0.attn_qkv.bias", [64], 0, struct.pack("<f", 0.5) * 64),
                    matrix("blk.0.ffn_up.weight", hidden, 2 * inner, 2), matrix("output.weight", hidden, vocabulary, 8)]
    return gguf(pairs, tensors)


bpe = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
       "tokenizer.ggml.tokens": (8, ["H", "i", "Hi", "Ġ", "<|im_start|>", "<|im_end|>", "u", "s", "us", "a", "b", "Ċ"]),
       "tokenizer.ggml.token_type": (5, [1, 1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1]), "tokenizer.ggml.merges": (8, ["H i", "u s"]),
       "tokenizer.ggml.eos_token_id": 5, "tokenizer.chat_template": "{% <|im_start|> %}"}
pieces = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": (8, ["<unk>", "<s>", "</s>", "▁", "H", "i", "▁Hi"] + [f"<0x{b:02X}>" for b in range(256)]),
          "tokenizer.ggml.scores": (6, [0.0] * 3 + [-1.0, -2.0, -3.0, -0.5] + [0.0] * 256), "tokenizer.ggml.token_type": (5, [2, 3, 3, 1, 1, 1, 1] + [6] * 256),
          "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
put("gguf", "llama_bpe", model("llama", bpe))
put("gguf", "chatglm_sentencepiece", model("chatglm", {**pieces, "tokenizer.chat_template": "chatglm3"}))
put("gguf", "whole_sentencepiece", gguf({"general.architecture": "chatglm", "tokenizer.ggml.model": "llama", "glmd.tokenizer.sentencepiece":
                                         (0, (golden / "chatglm3/fp16/tokenizer.model").read_bytes())}, []))
put("gguf", "empty", gguf({}, []))

# safetensors ----------------------------------------------------------------------------------------------------------------
directory = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
                        "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]}}).encode()
put("safetensors", "two", struct.pack("<Q", len(directory)) + directory + bytes(16))


# torch.save: a pickle of tensors, made without torch ------------------------------------------------------------------------
class Global:
    """Pickles as a reference to a class of a module that isn't here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Tensor:
    def __init__(self, key, shape):
        self.key, self.shape = key, shape


class Pickler(pickle._Pickler):
    def persistent_id(self, found):
        if isinstance(found, tuple) and found and found[0] == "storage":
            return found
        return None

    def save(self, found, **rest):
        if isinstance(found, Global):
            return self.write(b"c" + f"{found.module}\n{found.name}\n".encode())
        if isinstance(found, Tensor):
            count = 1
            for extent in found.shape:
                count *= extent
            strides = tuple(4 if i == 0 and len(found.shape) > 1 else 1 for i in range(len(found.shape)))
            self.save(Global("torch._utils", "_rebuild_tensor_v2"))
            self.save((("storage", Global("torch", "HalfStorage"), found.key, "cpu", count), 0, found.shape, strides, False, {}))
            return self.write(pickle.REDUCE)
        return super().save(found, **rest)


def torch_zip(tree, storages, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    Pickler(out, 2).dump(tree)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("archive/data.pkl", out.getvalue())
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return archive.getvalue()


put("torch_zip", "states", torch_zip({"w": Tensor("0", (3, 4)), "b": Tensor("1", (5,))}, {"0": bytes(24), "1": bytes(10)}))
put("torch_zip", "module", torch_zip({"module": {"w": Tensor("0", (3, 4))}, "iteration": 7, "args": [1.5, None, True, "x"]}, {"0": bytes(24)}))
put("torch_zip", "packed", torch_zip({"w": Tensor("0", (3, 4))}, {"0": bytes(24)}, zipfile.ZIP_DEFLATED))

# Tokenizers' folders ---------------------------------------------------------------------------------------------------------
put("tokenizer_files", "sentencepiece", b"\x01\x1etokenizer.model\n" + (golden / "chatglm3/fp16/tokenizer.model").read_bytes().replace(b"\x1e", b"\x1f") +
    b"\x1etokenizer_config.json\n" + (golden / "chatglm3/fp16/tokenizer_config.json").read_bytes())
tokenizer = {"added_tokens": [{"id": 4, "content": "<|user|>", "special": True}],
             "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b", ["a", "b"]]}}
put("tokenizer_files", "bpe", "\x01\x1etokenizer.json\n" + json.dumps(tokenizer) + '\x1etokenizer_config.json\n{"chat_template": "[gMASK]<sop>"}')
put("tokenizer_files", "gpt2", '\x02\x1evocab.json\n{"a": 0, "b": 1, "ab": 2}\x1emerges.txt\n#version\na b\n\x1eadded_tokens.json\n{"[MASK]": 3}')
put("tokenizer_files", "ice", "\x00\x1eice_text.model\n\n\x05\n\x03<unk>")

# Requests ---------------------------------------------------------------------------------------------------------------------
bodies = {
    "chat": {"model": "default", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
             "stream": True, "temperature": 0.7, "top_p": 0.9, "seed": 1, "stop": ["\n", "x"], "service_tier": "flex", "metadata": {"a": "b"}},
    "response": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, {"type": "message", "role": "assistant", "content": "Yes"}],
                 "instructions": "x", "conversation": "conv_1", "max_output_tokens": 5, "store": False, "truncation": "auto"},
    "items": {"items": [{"type": "message", "role": "user", "content": "你好"}], "top_k": 40},
}
for name, body in bodies.items():
    put("json_body", name, json.dumps(body))
put("json_body", "escapes", '{"input":"\\ud83d\\ude00\\u0000\\u007f","a":1e308,"b":-0.0,"c":[[[[]]]],"\\u0061":null}')
put("json_body", "deep", '{"a":' + "[" * 70 + "]" * 70 + "}")


def request(method, path, body=b"", *headers):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n" + "".join(h + "\r\n" for h in headers)
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


session = json.dumps({"metadata": {"a": "b"}, "items": [{"type": "message", "role": "user", "content": "x"}]}).encode()
put("http_request", "pipelined", request("GET", "/health") + request("GET", "/v1/models") + request("POST", "/v1/conversations", session) +
    request("GET", "/v1/conversations?limit=2&order=asc") + request("GET", "/v1/glm/status"))
put("http_request", "chat", request("POST", "/v1/chat/completions", json.dumps(bodies["chat"]).encode()))
put("http_request", "response", request("POST", "/v1/responses", json.dumps(bodies["response"]).encode(), "Connection: close"))
put("http_request", "chunked", request("POST", "/v1/conversations", b"", "Transfer-Encoding: chunked", "Content-Type: application/json") + b"2\r\n{}\r\n0\r\n\r\n")
put("http_request", "expect", request("POST", "/v1/glm/infill", b'{"text":"a [MASK] b"}', "Expect: 100-continue"))
put("http_request", "old", b"GET /metrics HTTP/1.0\r\n\r\n")
put("http_request", "both_lengths", request("POST", "/v1/conversations", b"{}", "Transfer-Encoding: chunked"))
put("http_request", "delete", request("DELETE", "/v1/conversations/conv_1/items/msg_%31") + request("HEAD", "/health") + request("OPTIONS", "*"))

# Conversations and snapshots --------------------------------------------------------------------------------------------------
for number in range(5):
    put("chat", f"talk_{number}", bytes([number]) + "sBe brief.\x1euHi <|user|> [MASK][gMASK]<sop>\n\n你好\x1ea答：<eop>\x1eu[Round 0]\n问：<|im_end|>".encode() + b"\xff\x80")
for sealed in (0, 1):
    name = ("", "sealed_")[sealed]
    put("kv_snapshot", name + "overwritten", bytes([sealed, 1, 0, 40, 0, 0, 3]) + b"abc")
    put("kv_snapshot", name + "cut", bytes([sealed, 0, 1, 200, 1, 0, 0]))
    put("kv_snapshot", name + "longer", bytes([sealed, 2, 2, 0, 0, 0, 4]) + b"more" + bytes([1, 0, 0, 0, 0, 8]) + b"GLMDKV02")

# Schemas: a byte for what they are for, and the text --------------------------------------------------------------------------
schemas = {
    "person": {"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 9}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                                                "tags": {"type": "array", "items": {"enum": ["a", "b", 1, None]}, "minItems": 1, "maxItems": 3}}, "required": ["name", "age"]},
    "tree": {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"v": {"type": ["number", "null"]}, "c": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}}},
    "merged": {"allOf": [{"properties": {"a": {"minimum": 1}}, "required": ["a"]}, {"properties": {"a": {"maximum": 5.5}, "b": True}, "additionalProperties": {"type": "string"}}]},
    "either": {"anyOf": [{"const": {"a": [1.5, "é"]}}, {"type": "string", "pattern": "^(ab?|\\d{2,3})+$"}, {"prefixItems": [{"type": "boolean"}], "items": False}]},
    "one": {"oneOf": [{"properties": {"k": {"const": "x"}}, "required": ["k"]}, {"properties": {"k": {"enum": ["y", "z"]}}, "required": ["k"]}]},
    "numbers": {"type": "array", "items": {"type": "number", "exclusiveMinimum": -0.25, "exclusiveMaximum": 12.5}, "prefixItems": [{"format": "date"}, {"format": "uuid"}]},
    "beside": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "anyOf": [{"maxItems": 3}, {"items": {"minimum": 5}, "maxItems": 4}]},
    "anything": True,
}
for name, schema in schemas.items():
    put("json_schema", name, b"\0" + json.dumps(schema).encode())
for number, form in enumerate(["generic", "glm4", "chatglm3"], 1):
    put("json_schema", form, bytes([number + 4]) + json.dumps(schemas["person"]).encode() + b"\x1e" + json.dumps(schemas["tree"]).encode() +
        (b"\x1e" + json.dumps(schemas["either"]).encode() if number > 1 else b""))
