"""Fabricated credentials in texts as tools print them, and what only looks like one. Random, from a seed.

Formats are those that the makers publish. Each is put together here, so that no scanner takes one for a leak.
"""

from __future__ import annotations

import base64
import random
import string
import uuid
from typing import Final

__all__ = ["credentials", "look_alikes"]

_ALNUM: Final = string.ascii_letters + string.digits
_UPPER: Final = string.ascii_uppercase + string.digits
_LOWER: Final = string.ascii_lowercase + string.digits
_URL: Final = _ALNUM + "-_"
_B64: Final = _ALNUM + "+/"
_HEX: Final = "0123456789abcdef"
_BECH32: Final = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"


class _Maker:
    """Makes random texts: `some(20)` characters of an alphabet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - fabricated ones, the same in every run

    def some(self, n: int, of: str = _ALNUM) -> str:
        return "".join(self._random.choices(of, k=n))

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def password(self) -> str:
        """Return twelve characters with a digit and a sign among them, as a manager of passwords makes them."""
        letters = self.some(10, string.ascii_letters)
        at = self._random.randrange(1, 9)
        return letters[:at] + self.some(1, "23456789") + letters[at:] + self.some(1, "!#*+")

    def basic(self) -> str:
        return base64.b64encode(f"robot:{self.password()}".encode()).decode()


def credentials(seed: int) -> dict[str, tuple[str, str]]:
    """Return by a name each the text and the credential in it."""
    m = _Maker(seed)
    some, word = m.some, m.password
    pem = "\n".join(some(64, _B64) for _ in range(12))
    texts = {
        "gitlab": ("git remote add o https://oauth2:%s@gitlab.com/a/b.git", "glpat-" + some(20, _URL)),
        "gitlab runner": ("Registering runner... token glrt: %s, ok", "glrt-" + some(20, _URL)),
        "gitlab trigger": ("trigger --form %s --form ref=main", "glptt-" + some(40, _HEX)),
        "slack webhook": (
            "POST https://hooks.slack.com/services/%s",
            f"T{some(8, _UPPER)}/B{some(8, _UPPER)}/{some(24)}",
        ),
        "slack bot": ("SLACK: %s", f"xoxb-{some(12, string.digits)}-{some(13, string.digits)}-{some(24)}"),
        "stripe restricted": ("charge with %s.", "rk_" + "live_" + some(24)),
        "stripe": ("Stripe.api_key is %s", "sk_" + "live_" + some(24)),
        "stripe webhook": ("stripe listen prints %s", "whsec_" + some(32)),
        "azure storage": (
            "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=%s;EndpointSuffix=core.windows.net",
            some(86, _B64) + "==",
        ),
        "azure service bus": (
            "Endpoint=sb://a.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=%s",
            some(43, _B64) + "=",
        ),
        "azure client secret": (
            "az login --service-principal -u app -p '%s' --tenant t",
            some(3) + "8Q~" + some(34, _URL),
        ),
        "npm": ("npm publish with %s", "npm_" + some(36)),
        "npmrc": ("//registry.npmjs.org/:_authToken=%s", m.uuid()),
        "pypi": ("twine upload -u __token__ -p %s dist/*", "pypi-AgEIcHlwaS5vcmc" + some(150, _URL)),
        "hugging face": ("login(%s)", "hf_" + some(34)),
        "twilio": ("client = Client(account, %s)", "SK" + some(32, _HEX)),
        "twilio auth token": ("TWILIO_AUTH_TOKEN=%s", some(32, _HEX)),
        "sendgrid": ("sendgrid: %s", f"SG.{some(22, _URL)}.{some(43, _URL)}"),
        "curl -u": ("curl -sS -u deploy:%s https://ci.acme.io/api", word()),
        "curl --user": ("curl --fail --user 'admin:%s' \\\n  https://nexus.acme.io/repo", word()),
        "docker auth": ('{"auths": {"ghcr.io": {"auth": "%s"}}}', m.basic()),
        "telegram": ("https://api.telegram.org/bot%s/getMe", f"{some(9, '123456789')}:AA{some(33, _URL)}"),
        "vault": ("vault login %s", "hvs." + some(24)),
        "vault, long": ("Success! token   %s", "hvs.CAESI" + some(90, _URL)),
        "digitalocean": ("doctl auth init -t %s", "dop_v1_" + some(64, _HEX)),
        "age": ("# public key: age1...\n%s", "AGE-SECRET-KEY-1" + some(58, _BECH32)),
        "databricks": ("databricks configure: %s", "dapi" + some(32, _HEX)),
        "mysql -p": ("mysql -h db.acme.io -u root -p%s shop < dump.sql", word()),
        "mysqldump": ("mysqldump --user=root --password=%s shop", word()),
        "aws": ("key %s", "AKIA" + some(16, string.ascii_uppercase + "234567")),
        "aws secret": ("aws_secret_access_key = %s", some(40, _B64)),
        "github": ("gh auth: %s", "ghp_" + some(36)),
        "google": ("maps.js?key=%s&v=3", "AIza" + some(35, _URL)),
        "google oauth": ('"client_secret":"%s"', "GOCSPX-" + some(28, _URL)),
        "openai": ("using %s", "sk-" + "proj-" + some(48)),
        "jwt": ("cookie: session=%s", f"eyJhbGciOiJIUzI1NiJ9.eyJ{some(40, _URL)}.{some(43, _URL)}"),
        "private key": ("-----BEGIN RSA PRIVATE KEY-----\n%s\n-----END RSA PRIVATE KEY-----", pem),
        "postgres": ("postgresql://app:%s@db.acme.io:5432/shop", word().replace("#", "+")),
        "redis": ("redis://:%s@cache:6379/0", word().replace("#", "+")),
        "basic": ("Authorization: Basic %s", m.basic()),
        "bearer": ("-H 'Authorization: Bearer %s'", some(40)),
        "password in python": ('db.connect(user="app", password="%s")', word()),
        "password in yaml": ("database:\n  user: app\n  password: %s\n", word()),
        "password of psql": ("PGPASSWORD=%s psql -h db", word()),
        "netrc": ("machine ci.acme.io login robot password %s", word()),
        "sshpass": ("sshpass -p '%s' ssh root@10.0.0.7 uptime", word()),
    }
    return {name: (text.replace("%s", secret), secret) for name, (text, secret) in texts.items()}


def look_alikes(seed: int) -> dict[str, str]:
    """Return by a name each a text in which there is no credential."""
    m = _Maker(seed)
    some = m.some
    return {
        "commit": f"commit {some(40, _HEX)}",
        "sha256": f"{some(64, _HEX)}  app.tar.gz",
        "md5": f"md5sum: {some(32, _HEX)}",
        "digest": f"image: nginx@sha256:{some(64, _HEX)}",
        "etag": f'ETag: "{some(32, _HEX)}-3"',
        "integrity": f'"integrity": "sha512-{some(86, _B64)}=="',
        "pip hash": f"    --hash=sha256:{some(64, _HEX)}",
        "go.sum": f"golang.org/x/net v0.30.0 h1:{some(43, _B64)}=",
        "uuid": f"request_id={m.uuid()}",
        "uuid of a token id": f'"tokenId": "{m.uuid()}"',
        "aws example": "AWS_ACCESS_KEY_ID=" + "AKIAIOSFODNN7" + "EXAMPLE",
        "aws example secret": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
        "class name": "password_encoder = Pbkdf2PasswordEncoder()",
        "class name as a token": "token: OAuth2AccessTokenProvider",
        "class name in a setting": "spring.secret=com.acme.security.Aes256SecretKeyFactory",
        "PublicKeyToken": f"System.Core, Version=4.0.0.0, Culture=neutral, PublicKeyToken={some(16, _HEX)}",
        "your token": "export GITHUB_TOKEN=<your-token>",
        "your api key": "OPENAI_API_KEY=your-api-key-1234",
        "x": "token: ghp_" + "x" * 36,
        "xs": "glpat-" + "X" * 20,
        "asterisks": "password: ********",
        "variable": "password=${DB_PASSWORD_1}",
        "github actions": "token: ${{ secrets.NPM_TOKEN_2 }}",
        "environment": 'api_key = os.environ["API_KEY_V2"]',
        "vault path": "password: vault:secret/data/db1#password",
        "call": "token = secrets.token_urlsafe(32)",
        "changeme": 'password = "changeme123"',
        "ssh public key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{some(43, _B64)} dana@laptop",
        "certificate": f"-----BEGIN CERTIFICATE-----\n{some(64, _B64)}\n-----END CERTIFICATE-----",
        "stripe publishable": "pk_" + "live_" + some(24),
        "twilio account": f"account AC{some(32, _HEX)}",
        "google client id": f"{some(12, string.digits)}-{some(32, _LOWER)}.apps.googleusercontent.com",
        "npm variables": "npm_config_registry_mirror_timeout=3000 npm_lifecycle_event=test",
        "huggingface functions": "hf_hub_download_with_retries_and_backoff(repo)",
        "css of scikit-learn": ".sk-toggleable__content--hidden-by-default2 { }",
        "max tokens": "max_tokens=128000, token_count: 1234567890",
        "next page token": f"nextPageToken={some(40)}",
        "mysql asks": "mysql -u root -p shop2024",
        "curl of a user": "curl -u deploy https://ci.acme.io/api2",
        "curl with variables": 'curl -u "$USER:$PASS" https://ci.acme.io',
        "docker user": "docker run -u 1000:1000 -p 8080:8080 nginx",
        "ssh port": "ssh -p 2222 dana@build1.acme.io",
        "data": f"data:image/png;base64,iVBORw0KGgo{some(200, _B64)}",
        "hash of a password": "password_hash: $2b$12$" + some(53, _ALNUM + "./"),
    }
