"""Service providers that other people wrote, each a process of its own with its own folder and port.

Every one of them shows at `/secret` what it was told of whoever signed in, and writes its own metadata. Nothing of the
hub is imported here but what starts and ends processes.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.support.processes import die_with_parent, running, wait_until

ATTRIBUTES = ("employeeNumber", "displayName", "roles")
_APACHE_USER = "www-data"
_MODULES = Path("/usr/lib/apache2/modules")
SIMPLESAML = Path("/usr/share/simplesamlphp")
_NODE_SCRIPT = Path(__file__).with_name("node_saml.mjs")


@dataclass(frozen=True)
class Key:
    """The key that a product signs with and is encrypted for."""

    private: str
    certificate: str


@dataclass(frozen=True)
class HubFacts:
    """What a product is told of the hub."""

    entity_id: str
    metadata: str
    certificate: str


@dataclass(frozen=True, kw_only=True)
class Product:
    """A running service provider.

    Args:
        metadata: path of its metadata.
        login: path that begins a sign-in when nobody is signed in, and shows the attributes afterwards.
        logout: path that begins a logout.
        options: how the hub should know it, beside its metadata.
        logs: where it writes what it found wrong.
        is_told_by_soap: its metadata has an address for logout without a browser.
        artifact: path, or address with `{hub}` in it, that begins a sign-in which is answered by artifact; None: it
            knows none here.
        drops: bindings of logout that are taken out of its metadata, so that another one is used.
    """

    name: str
    port: int
    metadata: str
    logout: str
    login: str = "/secret"
    options: Mapping[str, object] = field(default_factory=dict)
    drops: tuple[str, ...] = ()
    logs: tuple[Path, ...] = ()
    is_told_by_soap: bool = False
    artifact: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def opened(folder: Path) -> Path:
    """The folder, for whoever Apache runs as."""
    folder.chmod(0o755)
    if os.getuid() == 0:
        shutil.chown(folder, _APACHE_USER, _APACHE_USER)
    return folder


def _write(folder: Path, key: Key, hub: "HubFacts") -> None:
    """What every product reads: its key, and the hub's metadata and certificate."""
    (folder / "key.pem").write_text(key.private)
    (folder / "certificate.pem").write_text(key.certificate)
    (folder / "hub.xml").write_text(hub.metadata)
    (folder / "hub.pem").write_text(hub.certificate)


@contextmanager
def _process(command: list[str | Path], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process without a port, until the block ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def apache(folder: Path, port: int, module: str, lines: str) -> None:
    """The configuration of an Apache that shows the environment of its requests."""
    assert shutil.which("apache2", path=_path()), "Apache is missing: `make test` installs it (apache2-bin)"
    (folder / "www").mkdir()
    shown = "".join(f'{name}=<!--#echo var="{name}" -->;<!--#echo var="MELLON_{name}" -->\n' for name in ATTRIBUTES)
    (folder / "www" / "secret").write_text(shown)
    loads = "\n".join(
        f"LoadModule {'mod_shib' if name == 'shib' else name + '_module'} {_MODULES}/mod_{name}.so"
        for name in f"mpm_event authn_core authz_core authz_user mime include {module}".split()
    )
    identity = f"User {_APACHE_USER}\nGroup {_APACHE_USER}" if os.getuid() == 0 else ""
    (folder / "httpd.conf").write_text(
        f"""ServerRoot {folder}
PidFile {folder}/httpd.pid
DefaultRuntimeDir {folder}
Listen 127.0.0.1:{port}
ServerName http://127.0.0.1:{port}
UseCanonicalName On
ErrorLog {folder}/error.log
StartServers 1
ServerLimit 1
ThreadsPerChild 8
MinSpareThreads 1
MaxSpareThreads 8
MaxRequestWorkers 8
{loads}
{identity}
TypesConfig /dev/null
DocumentRoot {folder}/www
<Directory {folder}/www>
  Options +Includes
  ForceType text/html
  SetOutputFilter INCLUDES
  Require all granted
</Directory>
{lines}
"""
    )


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin"


def apache_command(folder: Path) -> list[str | Path]:
    found = shutil.which("apache2", path=_path())
    assert found
    return [found, "-D", "FOREGROUND", "-f", folder / "httpd.conf"]


@contextmanager
def mellon(folder: Path, port: int, key: Key, hub: HubFacts) -> Iterator[Product]:
    """Debian's Apache with mod_auth_mellon (Lasso)."""
    _write(folder, key, hub)
    apache(
        folder,
        port,
        "auth_mellon",
        f"""MellonLockFile {folder}/mellon.lock
<Location />
  MellonEnable info
  MellonSPPrivateKeyFile {folder}/key.pem
  MellonSPCertFile {folder}/certificate.pem
  MellonSPentityId http://127.0.0.1:{port}/mellon/metadata
  MellonIdPMetadataFile {folder}/hub.xml
  MellonEndpointPath /mellon
  MellonMergeEnvVars On ","
</Location>
<Location /secret>
  MellonEnable auth
  AuthType Mellon
  Require valid-user
</Location>""",
    )
    with running(apache_command(folder), port=port, log=folder / "error.log"):
        yield Product(
            name="mellon",
            port=port,
            metadata="/mellon/metadata",
            logout="/mellon/logout?ReturnTo=/mellon/metadata",
            # It asks for POST by name in every request of its own.
            artifact="{hub}/saml/launch/mellon",
            options={"idp_initiated": True, "response_binding": "artifact"},
            logs=(folder / "error.log",),
            is_told_by_soap=True,
        )


@contextmanager
def shibboleth(folder: Path, port: int, key: Key, hub: HubFacts) -> Iterator[Product]:
    """Debian's Apache with Shibboleth and shibd. It checks schema and signature of our metadata."""
    _write(folder, key, hub)
    shibd = shutil.which("shibd", path=_path())
    assert shibd, "Shibboleth is missing: `make test` installs it (libapache2-mod-shib)"
    etc = "/etc/shibboleth"
    attributes = "\n".join(
        f'<Attribute name="{name}" nameFormat="urn:oasis:names:tc:SAML:2.0:attrname-format:basic" id="{name}"/>'
        for name in ATTRIBUTES
    )
    (folder / "attribute-map.xml").write_text(
        f'<Attributes xmlns="urn:mace:shibboleth:2.0:attribute-map">{attributes}</Attributes>'
    )
    (folder / "logger").write_text(
        f"""log4j.rootCategory=INFO, log
log4j.appender.log=org.apache.log4j.FileAppender
log4j.appender.log.fileName={folder}/shibd.log
log4j.appender.log.layout=org.apache.log4j.PatternLayout
log4j.appender.log.layout.ConversionPattern=%p %c - %m%n
"""
    )
    (folder / "shibboleth2.xml").write_text(
        f"""<SPConfig xmlns="urn:mace:shibboleth:3.0:native:sp:config" clockSkew="60">
 <OutOfProcess logger="{folder}/logger"/>
 <InProcess logger="{folder}/logger"/>
 <UnixListener address="{folder}/shibd.sock"/>
 <ApplicationDefaults entityID="http://127.0.0.1:{port}/shibboleth" signing="true"
   signingAlg="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256" REMOTE_USER="employeeNumber"
   requireConfidentiality="false">
  <Sessions lifetime="28800" timeout="3600" relayState="ss:mem" checkAddress="false" handlerSSL="false"
    cookieProps="http" redirectLimit="exact">
   <SSO entityID="{hub.entity_id}">SAML2</SSO>
   <Logout>SAML2 Local</Logout>
   <Handler type="MetadataGenerator" Location="/Metadata" signing="false"/>
  </Sessions>
  <MetadataProvider type="XML" validate="true" path="{folder}/hub.xml">
   <MetadataFilter type="Signature" certificate="{folder}/hub.pem"/>
  </MetadataProvider>
  <AttributeExtractor type="XML" reloadChanges="false" path="{folder}/attribute-map.xml"/>
  <CredentialResolver type="File" key="{folder}/key.pem" certificate="{folder}/certificate.pem"/>
 </ApplicationDefaults>
 <SecurityPolicyProvider type="XML" path="{etc}/security-policy.xml"/>
 <ProtocolProvider type="XML" path="{etc}/protocols.xml"/>
</SPConfig>"""
    )
    apache(
        folder,
        port,
        "shib",
        f"""ShibConfig {folder}/shibboleth2.xml
<Location /secret>
  AuthType shibboleth
  ShibRequestSetting requireSession true
  Require shib-session
</Location>
<Location /Shibboleth.sso>
  SetHandler shib
  Require all granted
</Location>""",
    )
    with ExitStack() as stack:
        log = (folder / "shibd.out").open("ab")
        stack.callback(log.close)
        command: list[str | Path] = [shibd, "-F", "-f", "-c", folder / "shibboleth2.xml", "-p", folder / "shibd.pid"]
        daemon = stack.enter_context(_process(command, log))
        wait_until(
            lambda: daemon.poll() is not None or (folder / "shibd.sock").exists(), seconds=60, what="shibd listens"
        )
        assert daemon.poll() is None, (folder / "shibd.out").read_text()[-3000:]
        if os.getuid() == 0:
            (folder / "shibd.sock").chmod(0o777)
        stack.enter_context(running(apache_command(folder), port=port, log=folder / "error.log"))
        yield Product(
            name="shibboleth",
            port=port,
            metadata="/Shibboleth.sso/Metadata",
            logout="/Shibboleth.sso/Logout",
            options={"encrypt_assertion": True},
            artifact="/Shibboleth.sso/Login?acsIndex=3&target=/secret",
            logs=(folder / "shibd.log", folder / "error.log"),
            is_told_by_soap=True,
        )


@contextmanager
def simplesamlphp(folder: Path, port: int, key: Key, hub: HubFacts) -> Iterator[Product]:
    """Debian's SimpleSAMLphp on PHP's own server."""
    php = shutil.which("php")
    assert php and SIMPLESAML.is_dir(), "SimpleSAMLphp is missing: `make test` installs it (simplesamlphp, php-xml)"
    _write(folder, key, hub)
    for name in ("config", "www", "data"):
        (folder / name).mkdir()
    (folder / "www" / "simplesaml").symlink_to(SIMPLESAML / "www")
    (folder / "config" / "config.php").write_text(
        f"""<?php $config = [
 'baseurlpath' => 'http://127.0.0.1:{port}/simplesaml/', 'secretsalt' => 'of-this-test-alone',
 'auth.adminpassword' => 'of-this-test-alone', 'timezone' => 'UTC', 'tempdir' => '{folder}/data',
 'datadir' => '{folder}/data/', 'certdir' => '{folder}/', 'loggingdir' => '{folder}/',
 'metadatadir' => '{folder}/data/',
 'attributenamemapdir' => '/etc/simplesamlphp/attributemap/', 'logging.handler' => 'errorlog',
 'logging.level' => SimpleSAML\\Logger::WARNING, 'showerrors' => true, 'errorreporting' => false,
 'session.cookie.secure' => false, 'session.cookie.samesite' => null, 'session.cookie.name' => 'SimpleSAMLSessionID',
 'session.phpsession.cookiename' => 'SimpleSAML', 'session.phpsession.savepath' => '{folder}/data',
 'session.authtoken.cookiename' => 'SimpleSAMLAuthToken', 'store.type' => 'phpsession', 'enable.saml20-idp' => false,
 'trusted.url.domains' => ['127.0.0.1:{port}'], 'assertion.allowed_clock_skew' => 60, 'module.enable' => [],
 'metadata.sources' => [['type' => 'xml', 'file' => '{folder}/hub.xml']],
 'metadata.sign.enable' => true, 'metadata.sign.privatekey' => 'sign.key', 'metadata.sign.certificate' => 'sign.pem',
 'metadata.sign.algorithm' => 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
];"""
    )
    (folder / "sign.key").write_text(key.private)
    (folder / "sign.pem").write_text(key.certificate)
    (folder / "config" / "authsources.php").write_text(
        f"""<?php $config = ['admin' => ['core:AdminPassword'], 'hub' => [
 'saml:SP', 'entityID' => 'http://127.0.0.1:{port}/sp', 'idp' => '{hub.entity_id}',
 'privatekey' => 'key.pem', 'certificate' => 'certificate.pem', 'sign.authnrequest' => true, 'sign.logout' => true,
 'validate.logout' => true, 'redirect.sign' => true, 'redirect.validate' => true, 'WantAssertionsSigned' => true,
 'validate.authnrequest' => true, 'NameIDPolicy' => ['Format' => 'urn:oasis:names:tc:SAML:2.0:nameid-format:persistent',
  'AllowCreate' => true],
]];"""
    )
    (folder / "www" / "secret.php").write_text(
        f"""<?php require_once '{SIMPLESAML}/lib/_autoload.php';
$hub = new \\SimpleSAML\\Auth\\Simple('hub');
if (isset($_GET['logout'])) {{ $hub->logout('http://127.0.0.1:{port}/secret.php?out'); }}
if (isset($_GET['out'])) {{ echo 'out'; exit; }}
$hub->requireAuth();
foreach ($hub->getAttributes() as $name => $values) {{ echo $name, '=', implode(',', $values), "\\n"; }}"""
    )
    environment = {"SIMPLESAMLPHP_CONFIG_DIR": str(folder / "config")}
    command: list[str | Path] = [php, "-S", f"127.0.0.1:{port}", "-t", folder / "www"]
    with running(command, port=port, log=folder / "error.log", env=environment):
        yield Product(
            name="simplesamlphp",
            port=port,
            metadata="/simplesaml/module.php/saml/sp/metadata.php/hub",
            login="/secret.php",
            logout="/secret.php?logout",
            drops=("SOAP",),
            logs=(folder / "error.log",),
        )


@contextmanager
def node_saml(folder: Path, port: int, key: Key, hub: HubFacts) -> Iterator[Product]:
    """npm's @node-saml/node-saml behind a server of a few lines."""
    node = shutil.which("node")
    assert node and (_NODE_SCRIPT.parent.parent / "node_modules" / "@node-saml").is_dir(), (
        "node or @node-saml/node-saml is missing: `make test` installs them"
    )
    _write(folder, key, hub)
    command: list[str | Path] = [node, _NODE_SCRIPT, str(port), folder]
    with running(command, port=port, log=folder / "error.log"):
        yield Product(name="node-saml", port=port, metadata="/metadata", logout="/logout", logs=(folder / "error.log",))


PRODUCTS: Mapping[str, Callable[[Path, int, Key, HubFacts], AbstractContextManager[Product]]] = {
    "mellon": mellon,
    "shibboleth": shibboleth,
    "simplesamlphp": simplesamlphp,
    "node-saml": node_saml,
}
