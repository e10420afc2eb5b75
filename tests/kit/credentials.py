"""A credential of every kind that secret-guard knows, for tests.

None is written out: each is put together, so that no scanner takes it for a leak.
"""

from __future__ import annotations

AWS = "AKIA" + "Y34FZKBOKMUTVV7A"
GITHUB = "ghp_" + "EXAMPLEexampleEXAMPLEexample00000000"
B64 = "MIIEpAIBAAKCAQEA7bq0Zk3x9dJ2vYw1"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{B64}\n{B64[::-1]}\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N"

UPPER, DIGITS, HEX = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", "8675309142", "9f86d081884c7d659a2feaa0c55ad015"
UUID = f"{HEX[:8]}-{HEX[8:12]}-{HEX[12:16]}-{HEX[16:20]}-{HEX[20:]}"
MIXED = "aB3dE5gH7jK9mN1pQ3sT5vX7zC2fR4uW6yA8eD0hL"

CREDENTIALS = {
    "aws": ("aws-access-key", AWS),
    "aws temporary": ("aws-access-key", "ASIA" + "Y34FZKBOKMUTVV7A"),
    "github": ("github-token", GITHUB),
    "github server": ("github-token", "ghs_" + "a1B2" * 10),
    "github fine-grained": ("github-token", "github_pat_" + "11ABCDEFG0" * 3 + "_" + "xyZ9" * 12),
    "slack": ("slack-token", "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
    "openai": ("api-key", "sk-" + "proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7"),
    "anthropic": ("api-key", "sk-" + "ant-api03-" + "aB3dE5gH7jK9mN1pQ3sT5vX7-aB3d_gH7j"),
    "stripe": ("api-key", "sk_" + "live_" + "51H8aB3dE5gH7jK9mN1pQ3sT"),
    "google": ("google-api-key", "AIza" + "SyD3mo-_k3y" + "0123456789abcdefghijklmn"),
    "jwt": ("jwt", JWT),
    "pem": ("private-key", PEM),
    "gitlab": ("gitlab-token", "glpat-" + MIXED[:20]),
    "gitlab with a route": ("gitlab-token", "glpat-" + MIXED[:27] + ".01." + "1a2b3c4d5"),
    "gitlab deploy": ("gitlab-token", "gldt-" + MIXED[:20]),
    "slack app": ("slack-token", "xapp-1-A02-" + DIGITS + "-" + HEX * 2),
    "stripe restricted": ("api-key", "rk_" + "live_" + MIXED[:24]),
    "npm": ("npm-access-token", "npm_" + MIXED[:36]),
    "pypi": ("pypi-token", "pypi-AgEIcHlwaS5vcmc" + MIXED * 3),
    "test pypi": ("pypi-token", "pypi-AgENdGVzdC5weXBpLm9yZw" + MIXED * 3),
    "hugging face": ("huggingface-token", "hf_" + MIXED[:34]),
    "twilio": ("twilio-api-key", "SK" + HEX),
    "sendgrid": ("sendgrid-api-token", "SG." + MIXED[:22] + "." + (MIXED * 2)[5:48]),
    "telegram": ("telegram-bot-token", DIGITS + ":AA" + MIXED[:33]),
    "vault": ("vault-token", "hvs." + MIXED[:24]),
    "vault, long": ("vault-token", "hvs.CAESI" + MIXED * 2),
    "digitalocean": ("digitalocean-pat", "dop_v1_" + HEX * 2),
    "age": ("age-secret-key", "AGE-SECRET-KEY-1" + (UPPER * 2)[:58]),
    "databricks": ("databricks-api-token", "dapi" + HEX),
    "docker": ("docker-token", "dckr_pat_" + MIXED[:27]),
    "newrelic": ("newrelic-key", "NRAK-" + UPPER[:27]),
    "azure client": ("azure-client-secret", "aB3" + "8Q~" + MIXED[:34]),
    "mailchimp": ("mailchimp-key", HEX + "-us12"),
    "shopify": ("shopify-access-token", "shpat_" + HEX),
    "terraform": ("hashicorp-tf-api-token", MIXED[:14] + ".atlasv1." + (MIXED * 2)[:67]),
    "dynatrace": ("dynatrace-api-token", "dt0c01." + UPPER[:24] + "." + UPPER * 2),
}
