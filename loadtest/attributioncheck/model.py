"""A transformer with random weights behind OpenAI's API, with continuous batching, for `make attribution-check`: model.py PORT NAME.

Each shape of its work (a step for 1 to 16 sequences, prompts of 32 to 512 tokens) is a CUDA graph, timed by itself before it serves. So it knows, in the end, how
long the GPU worked for each request: its prompt's graph, and its part of each step that it was in, all parts of a step being equal. The last event of an answer says
so: truth_ms. Without PyTorch or a GPU it waits in place of computing if PRETEND=1.
"""
import http.server, json, os, queue, sys, threading, time

port, name = int(sys.argv[1]), sys.argv[2]
SLOTS, CONTEXT = 16, 1024
BATCHES, PROMPTS = (1, 2, 4, 8, 16), (32, 64, 128, 256, 512)
PRETEND = os.environ.get("PRETEND") == "1"
graphs, takes = {}, {}

if not PRETEND:
    import torch
    import torch.nn.functional as F

    WIDTH, HEADS, LAYERS, WORDS = 4096, 32, 16, 32000
    cuda = dict(device="cuda")
    half = dict(device="cuda", dtype=torch.float16)

    def weights(*shape):
        return torch.randn(*shape, **half) * 0.02

    embedding, output = weights(WORDS, WIDTH), weights(WIDTH, WORDS)
    layers = [[weights(WIDTH, 3 * WIDTH), weights(WIDTH, WIDTH), weights(WIDTH, 4 * WIDTH), weights(4 * WIDTH, WIDTH)] for _ in range(LAYERS)]
    keys, values = [[torch.zeros(SLOTS, HEADS, CONTEXT, WIDTH // HEADS, **half) for _ in range(LAYERS)] for _ in range(2)]
    last, position = [torch.zeros(SLOTS, dtype=torch.long, **cuda) for _ in range(2)]
    slot, places = torch.zeros(1, dtype=torch.long, **cuda), torch.arange(CONTEXT, **cuda)
    prompts = {n: torch.randint(0, WORDS, (n,), **cuda) for n in PROMPTS}
    lengths = {n: torch.full((1,), n, dtype=torch.long, **cuda) for n in PROMPTS}

    def norm(x):
        return F.layer_norm(x, (WIDTH,))

    def rest(x, attended, out, up, down):
        x = x + attended @ out
        return x + F.gelu(norm(x) @ up) @ down

    def read(n):  # a prompt, into slot
        x = embedding[prompts[n]]
        for l, (qkv, *others) in enumerate(layers):
            q, k, v = (norm(x) @ qkv).view(n, 3, HEADS, WIDTH // HEADS).permute(1, 2, 0, 3)
            keys[l][:, :, :n].index_copy_(0, slot, k[None])
            values[l][:, :, :n].index_copy_(0, slot, v[None])
            attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
            x = rest(x, attended.transpose(0, 1).reshape(n, WIDTH), *others)
        last.index_copy_(0, slot, (norm(x[-1:]) @ output).argmax(-1))
        position.index_copy_(0, slot, lengths[n])

    def step(b):  # one token for each of the first b slots
        x, rows = embedding[last[:b]], torch.arange(b, **cuda)
        mask = (places[None] <= position[:b, None])[:, None, None]
        for l, (qkv, *others) in enumerate(layers):
            all = (norm(x) @ qkv).view(b, 3, HEADS, WIDTH // HEADS)
            keys[l][rows, :, position[:b]], values[l][rows, :, position[:b]] = all[:, 1], all[:, 2]
            attended = F.scaled_dot_product_attention(all[:, 0, :, None], keys[l][:b], values[l][:b], attn_mask=mask)
            x = rest(x, attended.reshape(b, WIDTH), *others)
        last[:b] = (norm(x) @ output).argmax(-1)
        position[:b] += 1

    @torch.no_grad()
    def record(work, n):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work(n)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work(n)
        position.zero_()
        for _ in range(5):
            graph.replay()
        begin, end = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        begin.record()
        for _ in range(30):
            graph.replay()
        end.record()
        end.synchronize()
        position.zero_()
        graphs[work.__name__, n], takes[work.__name__, n] = graph, begin.elapsed_time(end) / 30

    for n in BATCHES:
        record(step, n)
    for n in PROMPTS:
        record(read, n)
    print({f"{what} {n}": round(ms, 3) for (what, n), ms in takes.items()}, flush=True)


def work(what, n):
    """does one piece of work, and says how long that takes, in ms"""
    if PRETEND:
        time.sleep(0.004)
        return 4.0
    graphs[what, n].replay()
    torch.cuda.current_stream().synchronize()
    return takes[what, n]


class Request:
    def __init__(self, prompt, most):
        self.prompt, self.most, self.made, self.truth, self.tokens = prompt, most, 0, 0.0, queue.Queue()

    def token(self, ms):
        self.made, self.truth = self.made + 1, self.truth + ms
        self.tokens.put(True)


waiting = queue.Queue()


def engine():
    slots = [None] * SLOTS
    while True:
        while not any(slots) or (not all(slots) and not waiting.empty()):
            request, free = waiting.get(), slots.index(None)
            slots[free] = request
            if not PRETEND:
                slot.fill_(free)
            request.token(work("read", request.prompt))
        live = [r for r in slots if r]
        top = max(i for i, r in enumerate(slots) if r) + 1
        ms = work("step", next(b for b in BATCHES if b >= top))
        for i, r in enumerate(slots):
            if r:
                r.token(ms / len(live))
                if r.made >= r.most:
                    r.tokens.put(False)
                    slots[i] = None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def log_message(self, *_):
        pass

    def head(self, status, kind, **more):
        self.send_response(status)
        for field, value in {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in more.items()}}.items():
            self.send_header(field, value)
        self.end_headers()

    def do_GET(self):
        known = self.path in ("/health", "/v1/models")
        body = json.dumps({"object": "list", "data": [{"id": name, "object": "model"}]} if known else {"error": "not found"}).encode()
        self.head(200 if known else 404, "application/json", Content_Length=str(len(body)))
        self.wfile.write(body)

    def event(self, data):
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(asked["prompt_tokens"], min(asked["max_tokens"], CONTEXT - asked["prompt_tokens"]))
        waiting.put(request)
        self.head(200, "text/event-stream", Transfer_Encoding="chunked")
        while request.tokens.get():
            self.event(json.dumps({"choices": [{"index": 0, "delta": {"content": "x "}}]}))
        usage = {"prompt_tokens": request.prompt, "completion_tokens": request.made}
        self.event(json.dumps({"choices": [], "usage": usage, "truth_ms": request.truth}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Server(http.server.ThreadingHTTPServer):
    request_queue_size, daemon_threads = 128, True


threading.Thread(target=engine, daemon=True).start()
Server(("127.0.0.1", port), Handler).serve_forever()
