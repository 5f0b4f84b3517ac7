package config

// Keys say who may ask: clients bring an API key, which `pilotlight keys new` makes, a token of an issuer, or a certificate.
type Keys struct {
	// File holds the keys, one JSON object on each line, as hashes. It is read again when it changes; one that is no good changes nothing. Default: none.
	File string `yaml:"file,omitempty"`
	// Consul has keys be read from Consul's KV too, at PREFIX/keys/ID. Default false.
	Consul bool `yaml:"consul"`
	// JWT are issuers whose tokens count as keys, of which the edge must know nothing before. Default: none.
	JWT []JWT `yaml:"jwt,omitempty"`
	// Certificate is what of a client's certificate says who it is, where the request brings no key: subject, its common name; uri or dns, its names of
	// that kind. A key counts for it that has `certificate` in place of `sha256`. It needs tls.client_ca. Default: none, certificates say nothing.
	Certificate CertificateName `yaml:"certificate,omitempty"`
	// Pass lets clients' keys go on to the model servers. Default false: they stay here.
	Pass bool `yaml:"pass"`
}

// CertificateName is what of a certificate says whose it is.
type CertificateName string

// The names.
const (
	CertificateSubject CertificateName = "subject"
	CertificateURI     CertificateName = "uri"
	CertificateDNS     CertificateName = "dns"
)

// UnmarshalText reads the kind of a name.
func (n *CertificateName) UnmarshalText(text []byte) error {
	return oneOf(n, text, "name of a certificate", certificateNames())
}

func certificateNames() []CertificateName {
	return []CertificateName{CertificateSubject, CertificateURI, CertificateDNS}
}

func (c *Config) checkKeys(at *place) {
	k := c.Keys
	switch {
	case k.File == "" && !k.Consul && len(k.JWT) == 0:
		at.problem("keys come from a file, from consul or from issuers in jwt; without any nobody could be served")
	case k.Consul && c.Consul == nil:
		at.below("consul").problem("keys.consul needs the section consul")
	}
	checkIssuers(at.below("jwt"), k.JWT)
	if given := at.get("certificate"); given != nil && (c.TLS == nil || c.TLS.ClientCA == "") {
		given.problem("keys.certificate needs tls.client_ca: only certificates that were asked for and verified say who a client is")
	}
}
