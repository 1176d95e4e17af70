"""Emergency numbers beside those of libphonenumber's data, each with where it is written, so that anybody can look.

A number without a source is none: whoever adds one adds the page of a regulator, a government or a standard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Source:
    """Where something is written.

    Attributes:
        publisher: Who answers for it.
        title: Of the page or standard, as it stands there.
        address: Where it can be opened.
        read: The day on which it was read, as ISO 8601 has it.
    """

    publisher: str
    title: str
    address: str
    read: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A number, or the beginning of a name, that goes to an emergency service.

    Attributes:
        number: As it is dialled.
        country: ISO 3166 code of where it counts; empty where that is no matter of countries.
        reaches: Whom it reaches.
        source: Where that is written.
    """

    number: str
    country: str
    reaches: str
    source: Source


_MOBILE: Final = Source(
    "3GPP",
    "TS 22.101, Service aspects; Service principles, section 10.1.1, Identification of emergency numbers",
    "https://www.3gpp.org/ftp/Specs/archive/22_series/22.101/",
    "2026-11-28",
)
_URN: Final = Source(
    "IETF and IANA",
    "RFC 5031, A Uniform Resource Name (URN) for Emergency and Other Well-Known Services, and its registry of labels",
    "https://www.iana.org/assignments/urn-serviceid-labels",
    "2026-11-28",
)
# The ministry's guide as others print it; its own address has changed since.
_SPAIN: Final = Source(
    "Ministerio de Igualdad, España",
    "Guía de actuación para mujeres que estén sufriendo violencia de género en situación de permanencia domiciliaria "
    "(2020), 1, Servicios generales",
    "https://iualora.es/guia-de-actuacion-para-mujeres-que-esten-sufriendo-violencia-de-genero-en-situacion-de-"
    "permanencia-domiciliaria-derivada-del-estado-de-alarma-por-covid-19-delegacion-del-gobierno-contra-la-v/",
    "2026-11-28",
)
_FRANCE: Final = Source(
    "Gendarmerie nationale, Ministère de l'Intérieur",
    "Journée Mondiale des Sourds : le 114 est leur numéro d'urgence",
    "https://www.gendarmerie.interieur.gouv.fr/gendinfo/actualites/2024/"
    "journee-mondiale-des-sourds-le-114-est-leur-numero-d-urgence",
    "2026-11-28",
)
_JAPAN: Final = Source(
    "海上保安庁 (Japan Coast Guard)", "海の「もしも」は118番", "http://www.kaiho.mlit.go.jp/joho/tel118/", "2026-11-28"
)
_PERU: Final = Source(
    "Radio Nacional, Instituto Nacional de Radio y Televisión del Perú",
    "Bomberos controlan incendio en la Escuela de Suboficiales de Puente Piedra, «¿Qué es el SAMU?»",
    "https://radionacional.gob.pe/noticias/locales/"
    "bomberos-controlan-incendio-en-la-escuela-de-suboficiales-de-puente-piedra",
    "2026-11-28",
)
_SAUDI_ARABIA: Final = Source(
    "General Directorate of Civil Defense, Kingdom of Saudi Arabia",
    "A word from the Director General of Civil Defense",
    "https://998.gov.sa/English/safety/PilgrimageSafetyInstructions/Pages/HajjAwareness.aspx",
    "2026-11-28",
)

EVERYWHERE: Final = tuple(Entry(number, "", "whoever answers there", _MOBILE) for number in ("112", "911"))
"""What every mobile phone takes for an emergency call, wherever it is."""

WITHOUT_A_COUNTRY: Final = tuple(
    Entry(number, "", "whoever answers there", _MOBILE) for number in ("000", "08", "110", "118", "119", "999")
)
"""What a phone takes besides when no card tells it a country. Here: when nobody names one."""

SERVICES: Final = (Entry("urn:service:sos", "", "this, or the sub-service after a dot", _URN),)
"""Names of emergency services."""

NATIONAL: Final = (
    Entry("062", "ES", "Guardia Civil", _SPAIN),
    Entry("091", "ES", "Policía Nacional", _SPAIN),
    # By message and picture as a rule; a call to it is no other number's either.
    Entry("114", "FR", "all emergency services, for the deaf and hard of hearing", _FRANCE),
    Entry("118", "JP", "coast guard", _JAPAN),
    Entry("106", "PE", "ambulance (SAMU)", _PERU),
    Entry("998", "SA", "civil defence", _SAUDI_ARABIA),
)
"""What libphonenumber's data does not have as emergency numbers of a country."""


def numbers(entries: Iterable[Entry]) -> frozenset[str]:
    """The numbers alone."""
    return frozenset(entry.number for entry in entries)
