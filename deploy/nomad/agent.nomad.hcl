# An agent on every client of Nomad with GPUs, beside the driver: it keeps that host's model servers for edges elsewhere. raw_exec, since model servers
# are its children and outlive it.
job "pilotlight-agent" {
  type = "system"

  constraint {
    attribute = "${attr.unique.platform.gpu.model}"
    operator  = "is_set"
  }

  update {
    max_parallel = 1
    stagger      = "30s"
  }

  group "agent" {
    task "agent" {
      driver       = "raw_exec"
      kill_signal  = "SIGTERM" # leaves model servers running, for the next start to adopt
      kill_timeout = "30s"

      config {
        command = "/usr/local/bin/pilotlight"
        args    = ["agent", "-c", "/etc/pilotlight/agent.yaml"]
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
