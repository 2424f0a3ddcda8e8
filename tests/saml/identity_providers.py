"""Identity providers that other people wrote, each a process of its own, for the hub as their service provider.

They sign in `QY000001` with the password of the tests, and read the hub's own metadata.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.flows.every_door import NUMBER, PASSWORD
from tests.saml.products import SIMPLESAML, Key
from tests.support.processes import running

SUBJECT = "9b1f-subject-of-the-provider"
_SCRIPT = Path(__file__).with_name("identity_provider.py")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A running identity provider.

    Args:
        metadata: path of its metadata.
        log: where it writes what it found wrong.
    """

    name: str
    port: int
    metadata: str
    log: Path
    number: str = "employeeNumber"
    """Name of the attribute that it gives the employee number in."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def simplesamlphp(folder: Path, port: int, key: Key, metadata: str) -> Iterator[Running]:
    """Debian's SimpleSAMLphp on PHP's own server. It verifies our requests, and encrypts when its folder says so."""
    php = shutil.which("php")
    assert php and SIMPLESAML.is_dir(), "SimpleSAMLphp is missing: `make test` installs it (simplesamlphp, php-xml)"
    (folder / "key.pem").write_text(key.private)
    (folder / "certificate.pem").write_text(key.certificate)
    (folder / "hub.xml").write_text(metadata)
    for name in ("config", "www", "data", "metadata"):
        (folder / name).mkdir()
    (folder / "www" / "simplesaml").symlink_to(SIMPLESAML / "www")
    (folder / "config" / "config.php").write_text(
        f"""<?php $config = [
 'baseurlpath' => 'http://127.0.0.1:{port}/simplesaml/', 'secretsalt' => 'of-this-test-alone',
 'auth.adminpassword' => 'of-this-test-alone', 'timezone' => 'UTC', 'tempdir' => '{folder}/data',
 'datadir' => '{folder}/data/', 'certdir' => '{folder}/', 'loggingdir' => '{folder}/',
 'metadatadir' => '{folder}/metadata/', 'theme.use' => 'default', 'language.default' => 'en',
 'language.available' => ['en'], 'attributenamemapdir' => '/etc/simplesamlphp/attributemap/',
 'logging.handler' => 'errorlog', 'logging.level' => SimpleSAML\\Logger::WARNING, 'showerrors' => true,
 'errorreporting' => false, 'session.cookie.secure' => false, 'session.cookie.samesite' => null,
 'session.cookie.name' => 'SimpleSAMLSessionID', 'session.phpsession.cookiename' => 'SimpleSAML',
 'session.phpsession.savepath' => '{folder}/data', 'session.authtoken.cookiename' => 'SimpleSAMLAuthToken',
 'store.type' => 'phpsession', 'enable.saml20-idp' => true, 'assertion.allowed_clock_skew' => 60,
 'module.enable' => ['exampleauth' => true],
 'metadata.sources' => [['type' => 'flatfile'], ['type' => 'xml', 'file' => '{folder}/hub.xml']],
];"""
    )
    (folder / "config" / "authsources.php").write_text(
        f"""<?php $config = ['admin' => ['core:AdminPassword'], 'staff' => ['exampleauth:UserPass',
 '{NUMBER}:{PASSWORD}' => ['uid' => ['{SUBJECT}'], 'employeeNumber' => ['{NUMBER}']],
]];"""
    )
    (folder / "metadata" / "saml20-idp-hosted.php").write_text(
        f"""<?php $metadata['http://127.0.0.1:{port}/idp'] = ['host' => '__DEFAULT__', 'privatekey' => 'key.pem',
 'certificate' => 'certificate.pem', 'auth' => 'staff', 'validate.authnrequest' => true, 'redirect.validate' => true,
 'redirect.sign' => true, 'sign.logout' => true, 'validate.logout' => true,
 'signature.algorithm' => 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
 'assertion.encryption' => file_exists('{folder}/encrypt'),
 'authproc' => [3 => ['class' => 'saml:AttributeNameID', 'attribute' => 'uid',
  'Format' => 'urn:oasis:names:tc:SAML:2.0:nameid-format:persistent']],
];"""
    )
    environment = {"SIMPLESAMLPHP_CONFIG_DIR": str(folder / "config")}
    command: list[str | Path] = [php, "-S", f"127.0.0.1:{port}", "-t", folder / "www"]
    with running(command, port=port, log=folder / "error.log", env=environment):
        yield Running(
            name="simplesamlphp", port=port, metadata="/simplesaml/saml2/idp/metadata.php", log=folder / "error.log"
        )


@contextmanager
def pysaml2(folder: Path, port: int, key: Key, metadata: str) -> Iterator[Running]:
    """PySAML2 behind a server of a few lines. It encrypts with AES-GCM when its folder says so."""
    (folder / "key.pem").write_text(key.private)
    (folder / "certificate.pem").write_text(key.certificate)
    (folder / "hub.xml").write_text(metadata)
    command: list[str | Path] = [sys.executable, _SCRIPT, str(port), folder, NUMBER, PASSWORD, SUBJECT]
    with running(command, port=port, log=folder / "error.log", seconds=60):
        # LDAP's name of `employeeNumber`; the short one is only for people to read.
        number = "urn:oid:2.16.840.1.113730.3.1.3"
        yield Running(name="pysaml2", port=port, metadata="/metadata", log=folder / "error.log", number=number)


IDENTITY_PROVIDERS: Mapping[str, Callable[[Path, int, Key, str], AbstractContextManager[Running]]] = {
    "simplesamlphp": simplesamlphp,
    "pysaml2": pysaml2,
}
