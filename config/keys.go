package config

// Keys say who may ask: clients bring an API key. `pilotlight keys new` makes one.
type Keys struct {
	// File holds the keys, one JSON object on each line, as hashes. It is read again when it changes; one that is no good changes nothing. Default: none.
	File string `yaml:"file,omitempty"`
	// Consul has keys be read from Consul's KV too, at PREFIX/keys/ID. Default false.
	Consul bool `yaml:"consul"`
	// Pass lets clients' keys go on to the model servers. Default false: they stay here.
	Pass bool `yaml:"pass"`
}

func (k *Keys) check(at *place, consul *Consul) {
	switch {
	case k.File == "" && !k.Consul:
		at.problem("keys come from a file or from consul; without either nobody could be served")
	case k.Consul && consul == nil:
		at.below("consul").problem("keys.consul needs the section consul")
	}
}
