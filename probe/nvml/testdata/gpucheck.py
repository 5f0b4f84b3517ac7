#!/usr/bin/env python3
"""Compares what pilotlight sees of a real GPU with what nvidia-smi sees and with what a program knows that works on it.

    go build -o bin/pilotlight . && python3 probe/nvml/testdata/gpucheck.py bin/pilotlight

It needs an NVIDIA GPU, its driver's nvidia-smi, and PyTorch; neither a network nor Go. It takes a minute and a half. Its exit status is the number
of comparisons that do not hold.
"""
import json, os, subprocess, sys, threading, time

PHASES = [("holds memory", 8, 0.0), ("busy half of the time", 20, 0.5), ("busy", 12, 1.0)]  # name, seconds, share
HOLD = 6 << 30  # bytes


def load():
    """The program that works: says on each line the time, the phase and for how long its kernels have run."""
    import torch
    dev = torch.device("cuda:0")
    hold = torch.empty(HOLD, dtype=torch.uint8, device=dev)
    hold.fill_(1)
    a = torch.randn(4096, 4096, device=dev, dtype=torch.float16)
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(); a @ a; end.record(); torch.cuda.synchronize()
    many = max(1, int(0.05 * 1000 / max(begin.elapsed_time(end), 0.001)))  # matrix products in some 50 ms
    ran = 0.0
    for name, seconds, share in PHASES:
        until = time.time() + seconds
        print(json.dumps({"at": time.time(), "phase": name, "ran": ran}), flush=True)
        while time.time() < until:
            if share == 0:
                time.sleep(0.05)
            else:
                begin.record()
                for _ in range(many):
                    a @ a
                end.record()
                torch.cuda.synchronize()
                took = begin.elapsed_time(end) / 1000
                ran += took
                time.sleep(took * (1 - share) / share)
            print(json.dumps({"at": time.time(), "phase": name, "ran": ran}), flush=True)
    print(json.dumps({"at": time.time(), "phase": "end", "ran": ran}), flush=True)


def smi(query, kind="gpu"):
    out = subprocess.run(["nvidia-smi", f"--query-{kind}={query}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30)
    return [[f.strip() for f in line.split(",")] for line in out.stdout.strip().splitlines()]


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def at(points, when, key):
    """The value of key at a time, between the points around it."""
    before = after = points[0]
    for p in points:
        before, after = (p, p) if p["at"] <= when else (before, p)
        if p["at"] > when:
            break
    if after["at"] == before["at"]:
        return before[key]
    return before[key] + (after[key] - before[key]) * (when - before["at"]) / (after["at"] - before["at"])


failed = 0


def compare(what, ours, theirs, tolerance, unit=""):
    global failed
    if ours is None or theirs is None or ours == -1:
        print(f"  {what:42} pilotlight {ours}  other {theirs}  not compared")
        return
    ok = abs(ours - theirs) <= tolerance
    failed += not ok
    print(f"  {what:42} pilotlight {ours:12.2f}{unit}  other {theirs:12.2f}{unit}  difference {ours - theirs:+.2f}{unit}  {'ok' if ok else 'DIFFERS by more than %g' % tolerance}")


def stamp(text):
    from datetime import datetime
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float("0." + (rest or "0"))


def look(pilotlight):
    return json.loads(subprocess.run([pilotlight, "gpus", "--local", "--json"], capture_output=True, text=True, timeout=60).stdout)


def static(pilotlight, title):
    """Compares one look at all that does not change from moment to moment."""
    print(f"\n{title}")
    fields = "index,uuid,name,pci.bus_id,memory.total,memory.reserved,memory.used,memory.free,utilization.gpu,power.draw,temperature.gpu,clocks.sm,ecc.errors.uncorrected.volatile.total"
    theirs = smi(fields)
    ours = look(pilotlight)
    for g, t in zip(ours["gpus"], theirs):
        same = g["uuid"] == t[1] and g["name"] == t[2] and t[3].lower().endswith(g["pci"])
        print(f"  GPU {g['index']} {g['name']} {g['uuid']} {g['pci']}: {'the same' if same else 'DIFFERS: ' + str(t[:4])}")
        for what, value, theirs_is, tolerance in [
            ("total", g["memory_bytes"], t[4], 1), ("reserved", g["reserved_bytes"], t[5], 1), ("used", g["used_bytes"], t[6], 64), ("free", g["free_bytes"], t[7], 64),
        ]:
            compare("memory " + what, value / 2**20, number(theirs_is), tolerance, " MiB")
        compare("power", g["power_watts"], number(t[9]), 120, " W")
        compare("temperature", g["celsius"], number(t[10]), 4, " C")
        compare("uncorrected memory errors", g["uncorrected_errors"], number(t[12]), 0)
        print(f"  health {g['health']} {g.get('reason', '')}; recovery action: {g['recovery_action']}; remapped rows: {g['remapped_rows']}; not told: {g.get('not_told', [])}")
        print(f"  processes: {g['processes']}; nvidia-smi: {smi('pid,used_memory,name', 'compute-apps')}")
    return ours


def main(pilotlight):
    print(subprocess.run("uname -r; readlink /proc/self/ns/pid; nvidia-smi -L; nvidia-smi --query-gpu=driver_version,mig.mode.current --format=csv,noheader; "
                         "nvidia-smi topo -m | head -12; ldd --version | head -1", shell=True, capture_output=True, text=True).stdout)
    print(subprocess.run([pilotlight, "gpus", "--local"], capture_output=True, text=True, timeout=60))
    static(pilotlight, "Idle")

    worker = subprocess.Popen([sys.executable, __file__, "load"], stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    points, looks, smis = [], [], []

    def follow():
        for line in worker.stdout:
            points.append(json.loads(line))

    follower = threading.Thread(target=follow)
    follower.start()
    while not points and worker.poll() is None:
        time.sleep(0.1)
    watcher = subprocess.Popen([pilotlight, "gpus", "--local", "--json", "--watch", "400ms"], stdout=subprocess.PIPE, text=True)

    def read():
        decoder, text = json.JSONDecoder(), ""
        for line in watcher.stdout:
            text += line
            if line == "}\n":
                looks.append(decoder.decode(text))
                text = ""

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(3)
    ours = static(pilotlight, "A program holds memory (PID %d as its parent knows it)" % worker.pid)
    held = [p["used_bytes"] for g in ours["gpus"] for p in g["processes"]]
    compare("largest holder, against what it asked for", max(held, default=0) / 2**20, HOLD / 2**20, 1500, " MiB")
    while worker.poll() is None:
        row = smi("utilization.gpu,power.draw")
        if row:
            smis.append({"at": time.time(), "util": number(row[0][0]) or 0.0, "power": number(row[0][1]) or 0.0})
        time.sleep(0.4)
    follower.join()
    cpu = 0.0
    for pid in [watcher.pid] + [int(p) for p in subprocess.run(["pgrep", "-P", str(watcher.pid)], capture_output=True, text=True).stdout.split()]:
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    watcher.terminate()
    watcher.wait(10)
    reader.join()

    seen = [{"at": stamp(s["at"]), "ran": s["gpus"][0]["ran_seconds"], "energy": s["gpus"][0]["energy_millijoules"] / 1000,
             "busy": s["gpus"][0]["busy"], "own": sum(p["busy"] for p in s["gpus"][0]["processes"])} for s in looks if s.get("at")]
    for name, seconds, share in PHASES:
        times = [p["at"] for p in points if p["phase"] == name]
        if not times or len(seen) < 2:
            continue
        first, last = max(times[0], seen[0]["at"]) + 1, times[-1] - 1
        span = last - first
        within = [s for s in seen if first <= s["at"] <= last]
        print(f"\nPhase \"{name}\" ({span:.1f} s)")
        truth = (at(points, last, "ran") - at(points, first, "ran")) / span
        counted = (at(seen, last, "ran") - at(seen, first, "ran")) / span
        compare("share of time with a kernel, counted up", counted, truth, 0.05)
        mean = sum(s["busy"] for s in within) / max(1, len(within))
        compare("the same, mean of looks", mean, truth, 0.08)
        own = sum(s["own"] for s in within) / max(1, len(within))
        compare("what its process had of it", own, truth, 0.15)
        theirs = [s for s in smis if first <= s["at"] <= last]
        if theirs:
            compare("the same, mean of nvidia-smi's", mean, sum(s["util"] for s in theirs) / len(theirs) / 100, 0.15)
            watts = (at(seen, last, "energy") - at(seen, first, "energy")) / span
            compare("power, from the energy counter", watts, sum(s["power"] for s in theirs) / len(theirs), 60, " W")
    if seen:
        print(f"\n{len(looks)} looks in {seen[-1]['at'] - seen[0]['at']:.0f} s took {cpu:.2f} s of processor time, in both processes together")
    print(f"{failed} comparisons do not hold")
    sys.exit(min(failed, 100))


if __name__ == "__main__":
    if sys.argv[1:] == ["load"]:
        load()
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
