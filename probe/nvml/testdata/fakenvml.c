// A libnvidia-ml.so.1 for tests: what it answers stands in a text file, so that a test reaches the probe through the real
// dlopen. It includes nvml.h from the go-nvml module, whose layouts are thus those under test.
//
//   gcc -shared -fPIC -fvisibility=hidden -I$(go list -m -f '{{.Dir}}' github.com/NVIDIA/go-nvml)/pkg/nvml -o libnvidia-ml.so.1 fakenvml.c
//
// -DOLD leaves out what old drivers do not have; a call of that would end the process.
//
// The file is $FAKE_NVML_STATE, or "state" beside the library, and read again when it changes; replace it by rename. A line is one of these; # begins a comment.
//   driver VERSION
//   init CODE                                     nvmlInit answers that nvmlReturn_t
//   gpu I UUID TOTAL RESERVED USED ENERGY_MJ POWER_MW NAME...
//   mig I N UUID TOTAL USED                       instance N of GPU I, which has MIG on
//   proc I PID BYTES                              a process that holds memory; -1: not available. I may be 100 + 8 I + N, an instance
//   busy I TS_US PERCENT                          a sample of the GPU's own ring
//   sm I PID TS_US PERCENT                        a sample of a process's use
//   link I J LEVEL NVLINK                         nvmlGpuTopologyLevel_t, and 1 if they are joined by NVLink
//   remap I CORRECTED UNCORRECTED PENDING FAILED
//   ecc I ERRORS                                  not corrected, since the driver was loaded
//   throttle I HEX
//   recovery I ACTION
//   xid I CODE                                    delivered once
//   fail FUNCTION I CODE                          the call, without nvml, answers that; I -1: for all GPUs
//   block FUNCTION I                              the call does not return while this line stands
//   grow N                                        nvmlDeviceGetProcessUtilization wants N entries more at the second call than at the first
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS 1
#include "nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GPUS 16
#define INSTANCES 8
#define MANY 512
#define API __attribute__((visibility("default")))

typedef unsigned long long u64;

typedef struct {
	int present, parent; // parent: of an instance, else -1
	char uuid[80], name[96];
	u64 total, reserved, used, energy, throttle, ecc;
	unsigned power, remap[4], recovery;
	int instances;
	int nprocs; struct { unsigned pid; long long bytes; } procs[MANY];
	int nbusy; struct { u64 ts; unsigned percent; } busy[MANY];
	int nsm; struct { unsigned pid; u64 ts; unsigned percent; } sm[MANY];
} gpu;

typedef struct { char call[64]; int gpu, code; } rule;

static struct {
	char driver[80];
	int init, grow;
	gpu gpus[GPUS + GPUS * INSTANCES]; // instances behind the GPUs
	unsigned level[GPUS][GPUS]; int nvlink[GPUS][GPUS];
	int nfails; rule fails[64];
	int nblocks; rule blocks[64];
	int nxids; struct { int gpu; u64 code; } xids[64];
} S;

static char handles[GPUS + GPUS * INSTANCES]; // a device's handle is the address of its place here
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct stat seen;
static int inits;

static gpu *at(int i) {
	if (i >= 100) i = GPUS + i - 100;
	return &S.gpus[i < 0 || i >= (int)sizeof handles ? 0 : i];
}

static void line(char *l) {
	int i, j, n; long long b; u64 a, c, d, e; unsigned u, v, w, x; char s[96];
	l[strcspn(l, "#\n")] = 0;
	if (sscanf(l, "gpu %d %79s %llu %llu %llu %llu %u %n", &i, s, &a, &c, &d, &e, &u, &n) == 7 && i >= 0 && i < GPUS) {
		gpu *g = at(i);
		g->present = 1; g->parent = -1; g->total = a; g->reserved = c; g->used = d; g->energy = e; g->power = u;
		strcpy(g->uuid, s); snprintf(g->name, sizeof g->name, "%s", l + n);
	} else if (sscanf(l, "mig %d %d %79s %llu %llu", &i, &j, s, &a, &c) == 5 && j >= 0 && j < INSTANCES) {
		gpu *g = at(100 + INSTANCES * i + j);
		g->present = 1; g->parent = i; g->total = a; g->used = c; strcpy(g->uuid, s);
		snprintf(g->name, sizeof g->name, "%.60s MIG 1g.10gb", at(i)->name);
		if (at(i)->instances <= j) at(i)->instances = j + 1;
	} else if (sscanf(l, "mig %d none", &i) == 1) { at(i)->instances = -1;
	} else if (sscanf(l, "proc %d %u %lld", &i, &u, &b) == 3 && at(i)->nprocs < MANY) {
		n = at(i)->nprocs++; at(i)->procs[n].pid = u; at(i)->procs[n].bytes = b;
	} else if (sscanf(l, "busy %d %llu %u", &i, &a, &u) == 3 && at(i)->nbusy < MANY) {
		n = at(i)->nbusy++; at(i)->busy[n].ts = a; at(i)->busy[n].percent = u;
	} else if (sscanf(l, "sm %d %u %llu %u", &i, &u, &a, &v) == 4 && at(i)->nsm < MANY) {
		n = at(i)->nsm++; at(i)->sm[n].pid = u; at(i)->sm[n].ts = a; at(i)->sm[n].percent = v;
	} else if (sscanf(l, "link %d %d %u %u", &i, &j, &u, &v) == 4) {
		S.level[i][j] = S.level[j][i] = u; S.nvlink[i][j] = S.nvlink[j][i] = v;
	} else if (sscanf(l, "remap %d %u %u %u %u", &i, &u, &v, &w, &x) == 5) {
		memcpy(at(i)->remap, (unsigned[]){u, v, w, x}, sizeof at(i)->remap);
	} else if (sscanf(l, "ecc %d %llu", &i, &a) == 2) { at(i)->ecc = a;
	} else if (sscanf(l, "throttle %d %llx", &i, &a) == 2) { at(i)->throttle = a;
	} else if (sscanf(l, "recovery %d %u", &i, &u) == 2) { at(i)->recovery = u;
	} else if (sscanf(l, "xid %d %llu", &i, &a) == 2 && S.nxids < 64) {
		S.xids[S.nxids].gpu = i; S.xids[S.nxids++].code = a;
	} else if (sscanf(l, "fail %63s %d %d", s, &i, &j) == 3 && S.nfails < 64) {
		strcpy(S.fails[S.nfails].call, s); S.fails[S.nfails].gpu = i; S.fails[S.nfails++].code = j;
	} else if (sscanf(l, "block %63s %d", s, &i) == 2 && S.nblocks < 64) {
		strcpy(S.blocks[S.nblocks].call, s); S.blocks[S.nblocks++].gpu = i;
	} else if (sscanf(l, "driver %79s", s) == 1) { strcpy(S.driver, s);
	} else if (sscanf(l, "init %d", &i) == 1) { S.init = i;
	} else if (sscanf(l, "grow %d", &i) == 1) { S.grow = i; }
}

// state is the path of the file.
static const char *state(void) {
	static char beside[4096];
	const char *named = getenv("FAKE_NVML_STATE"), *slash;
	Dl_info self;
	if (named) return named;
	if (!dladdr(beside, &self) || !(slash = strrchr(self.dli_fname, '/'))) return NULL;
	snprintf(beside, sizeof beside, "%.*s/state", (int)(slash - self.dli_fname), self.dli_fname);
	return beside;
}

// load reads the file if it has changed. mu is held.
static void load(void) {
	const char *path = state();
	struct stat st;
	char l[512];
	FILE *f;
	if (!path || stat(path, &st) || (st.st_ino == seen.st_ino && st.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)) return;
	if (!(f = fopen(path, "r"))) return;
	seen = st;
	memset(&S, 0, sizeof S);
	strcpy(S.driver, "580.95.05");
	for (int i = 0; i < GPUS; i++) for (int j = 0; j < GPUS; j++) S.level[i][j] = NVML_TOPOLOGY_SYSTEM;
	while (fgets(l, sizeof l, f)) line(l);
	fclose(f);
}

static int matches(rule *r, const char *call, int i) {
	return !strcmp(r->call, call) && (r->gpu == i || r->gpu == -1);
}

// enter waits while the call is blocked, and answers how it is to fail. On return mu is held.
static int enter(const char *call, int i) {
again:
	pthread_mutex_lock(&mu);
	load();
	for (int n = 0; n < S.nblocks; n++) {
		if (matches(&S.blocks[n], call, i)) { pthread_mutex_unlock(&mu); usleep(20000); goto again; }
	}
	for (int n = 0; n < S.nfails; n++) if (matches(&S.fails[n], call, i)) return S.fails[n].code;
	return 0;
}

static nvmlReturn_t leave(nvmlReturn_t r) { pthread_mutex_unlock(&mu); return r; }

// The body of a call for a device: g is its state, i its place. It ends with DONE(code).
#define CALL(NAME, DEV) \
	long i = (char *)(DEV).handle - handles; \
	if (i < 0 || i >= (long)sizeof handles) return NVML_ERROR_INVALID_ARGUMENT; \
	nvmlReturn_t failed = enter(NAME, i >= GPUS ? 100 + (int)i - GPUS : (int)i); \
	gpu *g = &S.gpus[i]; \
	if (!inits) failed = NVML_ERROR_UNINITIALIZED; \
	if (!failed && !g->present) failed = NVML_ERROR_GPU_IS_LOST; \
	if (failed) return leave(failed);
#define DONE(CODE) return leave(CODE)

API nvmlReturn_t nvmlInit_v2(void) { nvmlReturn_t r = enter("Init", -1); if (!r) r = S.init; if (!r) inits++; DONE(r); }
API nvmlReturn_t nvmlShutdown(void) { inits = 0; return NVML_SUCCESS; }
API const char *nvmlErrorString(nvmlReturn_t r) { static __thread char b[32]; snprintf(b, sizeof b, "fake error %d", r); return b; }
API nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { nvmlReturn_t r = enter("SystemGetDriverVersion", -1); if (!r) snprintf(v, n, "%s", S.driver); DONE(r); }
API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) {
	nvmlReturn_t r = enter("DeviceGetCount", -1);
	*n = 0;
	for (int i = 0; i < GPUS; i++) *n += S.gpus[i].present;
	DONE(r);
}
// Indices count those that are there: where one falls off the bus, the ones behind it move up.
API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *d) {
	nvmlReturn_t r = enter("DeviceGetHandleByIndex", (int)index);
	for (int i = 0; i < GPUS && !r; i++) if (S.gpus[i].present && index-- == 0) { d->handle = (void *)&handles[i]; DONE(r); }
	DONE(r ? r : NVML_ERROR_INVALID_ARGUMENT);
}
API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t d, unsigned *o) { CALL("DeviceGetIndex", d) *o = 0; for (int k = 0; k < i; k++) *o += S.gpus[k].present; DONE(0); }
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *b, unsigned n) { CALL("DeviceGetUUID", d) snprintf(b, n, "%s", g->uuid); DONE(0); }
API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *b, unsigned n) { CALL("DeviceGetName", d) snprintf(b, n, "%s", g->name); DONE(0); }
API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *p) {
	CALL("DeviceGetPciInfo", d)
	memset(p, 0, sizeof *p); p->bus = i; snprintf(p->busId, sizeof p->busId, "00000000:%02X:00.0", (unsigned)i); DONE(0);
}
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) {
	CALL("DeviceGetMemoryInfo", d)
	m->total = g->total; m->used = g->used + g->reserved; m->free = g->total - m->used; DONE(0);
}
static nvmlReturn_t processes(const char *call, nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *o) {
	CALL(call, d)
	unsigned room = *n;
	*n = g->nprocs;
	if (room < *n) DONE(NVML_ERROR_INSUFFICIENT_SIZE);
	for (unsigned k = 0; k < *n; k++) o[k] = (nvmlProcessInfo_t){g->procs[k].pid, (u64)g->procs[k].bytes, 0xFFFFFFFF, 0xFFFFFFFF};
	DONE(0);
}
API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *o) { return processes("DeviceGetComputeRunningProcesses", d, n, o); }
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *o) { CALL("DeviceGetPowerUsage", d) if (i >= GPUS) DONE(NVML_ERROR_NOT_SUPPORTED); *o = g->power; DONE(0); }
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t s, unsigned *o) { (void)s; CALL("DeviceGetTemperature", d) *o = 40 + i; DONE(0); }
API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t t, unsigned *o) { (void)t; CALL("DeviceGetClockInfo", d) *o = 1980; DONE(0); }
API nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t d, nvmlSamplingType_t t, u64 since, nvmlValueType_t *vt, unsigned *n, nvmlSample_t *o) {
	CALL("DeviceGetSamples", d)
	if (t != NVML_GPU_UTILIZATION_SAMPLES || g->instances || i >= GPUS) DONE(NVML_ERROR_NOT_SUPPORTED);
	*vt = NVML_VALUE_TYPE_UNSIGNED_INT;
	unsigned c = 0;
	for (int k = 0; k < g->nbusy; k++) {
		if (g->busy[k].ts <= since) continue;
		if (o && c < *n) { o[c].timeStamp = g->busy[k].ts; o[c].sampleValue.uiVal = g->busy[k].percent; }
		c++;
	}
	if (!c) DONE(NVML_ERROR_NOT_FOUND);
	if (!o || *n > c) *n = c;
	DONE(0);
}
// One entry for each process: the mean of its samples newer than since, with the time of the newest. Without room, or at the
// second call of "grow", it answers how much it needs.
API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t d, nvmlProcessUtilizationSample_t *o, unsigned *n, u64 since) {
	CALL("DeviceGetProcessUtilization", d)
	if (g->instances || i >= GPUS) DONE(NVML_ERROR_NOT_SUPPORTED);
	nvmlProcessUtilizationSample_t all[MANY]; unsigned times[MANY], c = 0, j;
	for (int k = 0; k < g->nsm; k++) {
		if (g->sm[k].ts <= since) continue;
		for (j = 0; j < c && all[j].pid != g->sm[k].pid; j++);
		if (j == c) { all[c] = (nvmlProcessUtilizationSample_t){.pid = g->sm[k].pid}; times[c++] = 0; }
		all[j].smUtil += g->sm[k].percent; times[j]++;
		if (g->sm[k].ts > all[j].timeStamp) all[j].timeStamp = g->sm[k].ts;
	}
	if (!c) DONE(NVML_ERROR_NOT_FOUND);
	unsigned need = o ? c + S.grow : c, room = o ? *n : 0;
	*n = need;
	if (room < need) DONE(NVML_ERROR_INSUFFICIENT_SIZE);
	*n = c;
	for (j = 0; j < c; j++) { o[j] = all[j]; o[j].smUtil /= times[j]; }
	DONE(0);
}
API nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuTopologyLevel_t *o) {
	CALL("DeviceGetTopologyCommonAncestor", a) (void)g;
	long j = (char *)b.handle - handles;
	if (i >= GPUS || j >= GPUS) DONE(NVML_ERROR_NOT_SUPPORTED);
	*o = S.level[i][j]; DONE(0);
}
API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *now, unsigned *next) { CALL("DeviceGetMigMode", d) *now = *next = g->instances != 0; DONE(0); }
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned *n) { CALL("DeviceGetMaxMigDeviceCount", d) *n = INSTANCES; DONE(0); }
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned n, nvmlDevice_t *o) {
	CALL("DeviceGetMigDeviceHandleByIndex", d) (void)g;
	if (i >= GPUS || n >= INSTANCES || !S.gpus[GPUS + i * INSTANCES + n].present) DONE(NVML_ERROR_NOT_FOUND);
	o->handle = (void *)&handles[GPUS + i * INSTANCES + n]; DONE(0);
}

#ifndef OLD
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
	CALL("DeviceGetMemoryInfo_v2", d)
	if (m->version != nvmlMemory_v2) DONE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	m->total = g->total; m->reserved = g->reserved; m->used = g->used; m->free = g->total - g->used - g->reserved; DONE(0);
}
API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, u64 *o) { CALL("DeviceGetTotalEnergyConsumption", d) if (i >= GPUS) DONE(NVML_ERROR_NOT_SUPPORTED); *o = g->energy; DONE(0); }
API nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuP2PCapsIndex_t c, nvmlGpuP2PStatus_t *o) {
	CALL("DeviceGetP2PStatus", a) (void)g;
	long j = (char *)b.handle - handles;
	*o = c == NVML_P2P_CAPS_INDEX_NVLINK && i < GPUS && j < GPUS && S.nvlink[i][j] ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED; DONE(0);
}
API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *a, unsigned *b, unsigned *c, unsigned *e) {
	CALL("DeviceGetRemappedRows", d)
	*a = g->remap[0]; *b = g->remap[1]; *c = g->remap[2]; *e = g->remap[3]; DONE(0);
}
API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t t, nvmlEccCounterType_t c, u64 *o) {
	(void)t; (void)c;
	CALL("DeviceGetTotalEccErrors", d) *o = g->ecc; DONE(0);
}
API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t d, u64 *o) { CALL("DeviceGetCurrentClocksEventReasons", d) *o = g->throttle; DONE(0); }
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *v) {
	CALL("DeviceGetFieldValues", d)
	for (int k = 0; k < n; k++) {
		v[k].nvmlReturn = v[k].fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
		v[k].valueType = NVML_VALUE_TYPE_UNSIGNED_INT; v[k].value.uiVal = g->recovery;
	}
	DONE(0);
}
API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t d, u64 *o) { CALL("DeviceGetSupportedEventTypes", d) *o = nvmlEventTypeXidCriticalError; DONE(0); }
API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *s) { s->handle = (void *)&S; return NVML_SUCCESS; }
API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t s) { (void)s; return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, u64 t, nvmlEventSet_t s) { (void)t; (void)s; CALL("DeviceRegisterEvents", d) DONE(0); }
static int delivered;
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t s, nvmlEventData_t *e, unsigned ms) {
	(void)s;
	for (unsigned waited = 0;; waited += 10) {
		nvmlReturn_t r = enter("EventSetWait", -1);
		if (r) return leave(r);
		if (delivered > S.nxids) delivered = 0;
		if (delivered < S.nxids) {
			memset(e, 0, sizeof *e);
			e->device.handle = (void *)&handles[S.xids[delivered].gpu];
			e->eventType = nvmlEventTypeXidCriticalError; e->eventData = S.xids[delivered++].code;
			return leave(NVML_SUCCESS);
		}
		leave(0);
		if (waited >= ms) return NVML_ERROR_TIMEOUT;
		usleep(10000);
	}
}
#endif
